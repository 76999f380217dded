# Runs in a virtual machine with Debian and systemd: installs the package, uses it as an administrator would, and takes it
# away again. The last line is "verified" when all went as it should.
set -euo pipefail
trap 'echo "failed in line $LINENO"; journalctl --no-pager -n 60 -u apitally-agent -u app; systemctl status --no-pager apitally-agent' ERR

step() { echo "verify: $*"; }

# Waits for a command to succeed.
eventually() {
    for _ in $(seq 600); do
        if "$@"; then return; fi
        sleep 0.2
    done
    echo "never: $*"
    false
}

# Wants a command to fail.
refused() {
    if "$@"; then
        echo "went well: $*"
        return 1
    fi
}

is() { [ "$(systemctl show -P "$2" apitally-agent)" = "$1" ]; }

# How often the agent has said this.
said() { journalctl --no-pager -o cat -u apitally-agent | grep -c -- "$1" || true; }

watched() { [ "$(said watching)" -ge "$1" ]; }

waits() { [ "$(said 'nothing of it is there yet')" = 1 ]; }

reloaded() { [ "$(said 'configuration read again')" = 1 ]; }

# A line of the agent's metrics.
metric() {
    python3 -c "import urllib.request as r; print(r.urlopen('http://127.0.0.1:9464/metrics').read().decode())" |
        awk -v name="$1" 'index($0, name) == 1 { print int($NF) }'
}

# What has the package's name, and is none of the packages.
left() { find / -xdev -name '*apitally-agent*' -not -path '/verify/*' -not -path '/proc/*' -not -path '/run/*' | sort; }

counted() { [ "$(metric http_server_request_duration_seconds_count)" = "$1" ]; }

# Over one connection, as soon as the app listens: a unit is watched before it does.
requests() {
    python3 - "$1" <<'PYTHON'
import http.client, sys, time
connection = http.client.HTTPConnection("127.0.0.1", 8000)
for _ in range(600):
    try:
        connection.connect()
        break
    except ConnectionRefusedError:
        time.sleep(0.2)
for number in range(int(sys.argv[1])):
    connection.request("GET", f"/items/{number}")
    assert connection.getresponse().read() == b"ok"
PYTHON
}

uname -r

step install
dpkg --install /verify/apitally-agent.deb
[ "$(systemctl is-enabled apitally-agent || true)" = disabled ]
is inactive ActiveState
[ "$(stat -c '%a %U' /etc/apitally-agent/agent.toml)" = "600 root" ]

step "start without a word of what to watch: it says so, once"
refused systemctl start apitally-agent
is failed ActiveState
is 64 ExecMainStatus
is 0 NRestarts
[ "$(said 'nothing to watch')" = 1 ]

step "configure, and start before there is anything to watch"
cat >>/etc/apitally-agent/agent.toml <<'CONFIG'
metrics_listen = "9464"
[[target]]
unit = "app.service"
CONFIG
systemctl enable --now apitally-agent
is active ActiveState
pid=$(systemctl show -P MainPID apitally-agent)
# A user that systemd has made up.
[ "$(awk '$1 == "Uid:" { print $2 }' "/proc/$pid/status")" -ge 61184 ]
journalctl --no-pager -o cat -p err _SYSTEMD_UNIT=apitally-agent.service | grep '^nothing to watch'
eventually waits
systemctl start app.service
eventually watched 1
requests 100
eventually counted 100

step "three restarts of the app, nothing lost once it is watched"
for round in 1 2 3; do
    systemctl restart app.service
    eventually watched $((round + 1))
    requests 100
    eventually counted $((round * 100 + 100))
done
[ "$(metric 'apitally_agent_exchanges_seen_total{target="--unit app.service"}')" = 400 ]
apitally-agent status

step reload
sed -i 's/^unit = .*/&\nenv = "prod"/' /etc/apitally-agent/agent.toml
systemctl reload apitally-agent
eventually reloaded
[ "$(systemctl show -P MainPID apitally-agent)" = "$pid" ]
requests 10
eventually counted 410

step "the watchdog restarts an agent that stands still"
kill -STOP "$pid"
eventually is 1 NRestarts
eventually is active ActiveState
eventually watched 5

step upgrade
before=$(systemctl show -P MainPID apitally-agent)
cp /etc/apitally-agent/agent.toml /verify/agent.toml
dpkg --install --force-confdef /verify/newer.deb
dpkg -s apitally-agent | grep '^Version: .*-2$'
cmp /verify/agent.toml /etc/apitally-agent/agent.toml
eventually is active ActiveState
[ "$(systemctl show -P MainPID apitally-agent)" != "$before" ]
eventually watched 6
requests 10
eventually counted 10

step remove and purge
dpkg --remove apitally-agent
refused systemctl is-active apitally-agent
[ -e /etc/apitally-agent/agent.toml ]
dpkg --purge apitally-agent
[ -z "$(left)" ]

# Debian's own rpm, which knows of no library that is there.
rpm() { command rpm --force-debian --nodeps "$@"; }

step "RPM: install, configure and start"
rpm --install /verify/apitally-agent.rpm
[ "$(systemctl is-enabled apitally-agent || true)" = disabled ]
is inactive ActiveState
[ "$(stat -c '%a %U' /etc/apitally-agent/agent.toml)" = "600 root" ]
cp /verify/agent.toml /etc/apitally-agent/agent.toml
systemctl enable --now apitally-agent
eventually watched 7
requests 10
eventually counted 10

step "RPM: upgrade"
before=$(systemctl show -P MainPID apitally-agent)
rpm --upgrade /verify/newer.rpm
command rpm --force-debian --query apitally-agent | grep -- '-2\.x86_64$'
cmp /verify/agent.toml /etc/apitally-agent/agent.toml
eventually is active ActiveState
[ "$(systemctl show -P MainPID apitally-agent)" != "$before" ]
eventually watched 8

step "RPM: erase"
rpm --erase apitally-agent
refused systemctl is-active apitally-agent
refused systemctl is-enabled apitally-agent
cmp /verify/agent.toml /etc/apitally-agent/agent.toml.rpmsave
# What the administrator wrote is kept, and the state.
diff <(left) - <<'LEFT'
/etc/apitally-agent
/var/lib/apitally-agent
/var/lib/private/apitally-agent
LEFT
echo verified
