# SPDX-License-Identifier: Apache-2.0
"""What a guest may ask about itself: the documents, and the loopback API that hands them out.

`documents` knows no database, since hosts make config drives from it too.
"""
