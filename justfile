# Every recipe is a step of `.ci/run`, where the steps are defined, so that a recipe is what CI runs.
# Without `just`: `bash .ci/run STEP`.

# List the recipes.
default:
    @just --list

# Everything that CI checks, in its order.
ci:
    @bash .ci/run

# What the other steps need is installed.
tools:
    @bash .ci/run tools

# Formatting.
fmt:
    @bash .ci/run fmt

# The arrows between the crates, and what the sans-IO crates may not reach.
arrows:
    @bash .ci/run arrows

# Licences, bans and sources of the dependencies (deny.toml).
deny:
    @bash .ci/run deny

# Clippy, warnings as errors.
lint:
    @bash .ci/run lint

# Rustdoc, warnings as errors.
doc:
    @bash .ci/run doc

# Everything compiles, the program without the hub too.
build:
    @bash .ci/run build

# Every test, by the command that the README gives.
test:
    @bash .ci/run test

# The classic programs beside the original, which needs Python 2.7.
original:
    @bash .ci/run original

# The stanzas of docs/operations.md, behind nginx and Caddy.
proxies:
    @bash .ci/run proxies

# Every network of tests/netlab, as root; arguments go to tests/networks/run.py.
networks *ARGS:
    @bash .ci/run networks -- {{ ARGS }}

# The README's demo command.
demo:
    @bash .ci/run demo

# The small program for an appliance, and how large it is.
small:
    @bash .ci/run small

# Known vulnerabilities in the dependencies (needs the internet; not in CI).
advisories:
    @bash .ci/run advisories

# Benchmarks; arguments go to `cargo bench`.
bench *ARGS:
    @bash .ci/run bench -- {{ ARGS }}

# Each fuzz target for so many seconds.
fuzz SECONDS="3":
    @bash .ci/run fuzz -- {{ SECONDS }}
