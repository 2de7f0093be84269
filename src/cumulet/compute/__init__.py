# SPDX-License-Identifier: Apache-2.0
"""Compute: servers, flavors, key pairs, hosts and their zones, and the road a server takes to a host.

Owns every record of a server and what it was promised; owns no image, no
network, no volume and no claim: those it asks for over REST. Its own words
besides the fixed vocabulary: `scheduler` (which host), `conductor` (the sagas
and the agents' only door to the database), `metadata` (what a guest may ask
about itself).
"""
