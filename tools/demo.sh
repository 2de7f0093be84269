#!/bin/sh
# The main job, from nothing: a cloud, a real server, its flow, a login. `make demo` calls it after the set-up.
set -eu
cd "$(dirname "$0")/.."
port=${CUMULET_PORT:-8080}
bin=$PWD/.venv/bin
say() { printf '\n\033[1m=== %s\033[0m\n' "$*"; }

# What real guests need. Where it can't be had, the cloud says so and simulates them.
if tools/setup.sh machine && make -s guest-image; then
    hypervisor=auto
else
    say "Real guests are not possible here (see above), so they are simulated"
    tools/setup.sh check
    hypervisor=simulated
fi

if "$bin/cumulet" status >/dev/null 2>&1; then
    say "The cloud runs already"
else
    say "Starting the cloud"
    "$bin/cumulet" up --port "$port" --hypervisor "$hypervisor" --detach
fi
eval "$("$bin/cumulet" env)"
data=$(dirname "$OS_CLIENT_CONFIG_FILE")
openstack() { "$bin/openstack" "$@"; }
hypervisor=$("$bin/cumulet" status --json | "$bin/python" -c 'import json,sys; print(json.load(sys.stdin)["hypervisor"])')

key=$data/demo_key
if ! [ -f "$key" ] || ! openstack keypair show demo >/dev/null 2>&1; then
    openstack keypair delete demo >/dev/null 2>&1 || true
    rm -f "$key"
    (umask 077 && openstack keypair create --private-key "$key" demo >/dev/null)
fi

if openstack server show hello >/dev/null 2>&1; then
    say "The server hello is there already"
else
    say "openstack server create --image tiny --flavor m1.nano --network private --key-name demo --wait hello"
    openstack server create --image tiny --flavor m1.nano --network private --key-name demo --wait hello -f value -c name -c status
fi
say "cumulet flow hello"
"$bin/cumulet" flow hello

address=$(openstack floating ip list --tags demo -f value -c 'Floating IP Address' | head -n 1)
if [ -z "$address" ]; then
    address=$(openstack floating ip create public --tag demo -f value -c floating_ip_address)
fi
openstack server show hello -f value -c addresses | grep -q "$address" || openstack server add floating ip hello "$address"
say "The server's floating address is $address"

if [ "$hypervisor" = libvirt ]; then
    say "ssh cirros@$address"
    login="ssh -i $key -o StrictHostKeyChecking=no -o UserKnownHostsFile=/dev/null -o LogLevel=ERROR -o ConnectTimeout=3 -o BatchMode=yes"
    tries=0
    until $login "cirros@$address" 'echo "  I am $(hostname), Linux $(uname -r), up $(cut -d" " -f1 /proc/uptime) s, $(ip -4 -o addr show eth0 | awk "{print \$4}")"' 2>/dev/null; do
        tries=$((tries + 1))
        [ "$tries" -lt 60 ] || { echo "the guest did not answer; its console: openstack console log show hello" >&2; exit 1; }
        sleep 1
    done
    say "Now you"
    echo "  ssh -i $key cirros@$address        # log in yourself"
else
    say "Simulated: there is no machine to log in to"
    echo "  cumulet doctor                     # says what real guests need here"
    say "Now you"
fi
cat <<EOF
  export OS_CLIENT_CONFIG_FILE=$data/clouds.yaml OS_CLOUD=cumulet PATH=$bin:\$PATH
  openstack server list                   # every OpenStack client works
  cumulet flow hello                      # the 29 steps again
  make clean                              # take everything away again
EOF
