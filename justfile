# What one does here. `just check` is what CI runs.

# list the recipes
default:
    @just --list --unsorted

# everything that CI runs
check:
    .ci/run

# the tests of the README
test:
    cargo test --workspace

# the load test: fake Discord, proxy, clients, a verdict (just load --scenario all --backend epoll)
load *options:
    cargo run --release -p loadtest -- run {{options}}

# what a guild and a member cost, as a table (just memory --judge)
memory *options:
    cargo run --release -p loadtest -- memory {{options}}

# memory and state after a long time of changes, against a fresh proxy (just churn --minutes 30)
churn *options:
    cargo run --release -p loadtest -- churn {{options}}

# every client gets its whole state at once
identify *options:
    cargo run --release -p loadtest -- identify {{options}}

# everything goes wrong for minutes, by a seed (just chaos --seed 7 --minutes 30)
chaos *options:
    cargo run --release -p loadtest -- chaos {{options}}

# everything measured in some 25 minutes, as a page and as JSON (just report --quick: some 4 minutes)
report *options:
    cargo run --release -p loadtest -- report --html report.html --json report.json {{options}}

# the proxy beside a bare relay over epoll, an own ring and glommio's TCP, as a table
floor *options:
    cargo run --release -p loadtest -- floor {{options}}

# two reports side by side, with the noise
compare before after:
    cargo run --release -p loadtest -- compare {{before}} {{after}}

# discord.js, discord.py and twilight, unmodified
libraries *options:
    tests/libraries/run {{options}}

# criterion (just bench wire)
bench *names:
    cargo bench {{ if names == "" { "" } else { "--bench " + names } }}

# the simulation over many seeds
sim seeds="10000":
    SIM_SEEDS={{seeds}} cargo test --release --test sim -- --nocapture

# one seed of the simulation, with its history
seed number:
    SIM_SEED={{number}} cargo test --release --test sim -- --nocapture

# images of all CPU targets, built and tried (needs root, buildah, podman, runc, debootstrap, jq)
images *targets:
    tuning/images {{targets}}

# metrics, alerts, units and manifests, judged by promtool, systemd and Kubernetes' schemas
deployment:
    tests/metrics/run
    tests/deploy/run

# the program and the tests without I/O of each CPU target, on models of old and new CPUs (needs qemu-user-static and jq)
cpu-targets *targets:
    tuning/cpu-targets {{targets}}

# what a profile and BOLT gain (needs Debian's llvm-22 and bolt-22)
pgo *options:
    tuning/pgo {{options}}

# all figures of this commit in a folder, beside those of another (just benchmarks figures last; QUICK=1)
benchmarks out="figures" last="":
    tuning/benchmarks {{out}} {{last}}

# dependencies: known holes, licences, where they come from (needs cargo-deny)
audit:
    cargo deny --locked check

# the workflows of CI (needs actionlint)
workflows:
    actionlint

# one fuzz target for a minute: frame, scan, egress, http_upgrade, inflate, compress, client_payload, state, wal, blob, recover, segment (needs cargo-fuzz and a nightly)
fuzz target seconds="60":
    cargo +nightly fuzz run {{target}} -- -max_total_time={{seconds}}

# every fuzz target, an hour each or as long as said (just fuzz-all 600)
fuzz-all seconds="3600" jobs="1":
    fuzz/campaign {{seconds}} {{jobs}}
