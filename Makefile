# Everything is in script/, which needs no make; this forwards to it.
.PHONY: setup demo test check generate bench scenarios faults

setup demo test:
	script/$@

check:
	script/setup test
	.venv/bin/pytest -q tests/test_code.py

bench:
	script/setup test
	.venv/bin/python bench/measure.py --plot docs/measurements.svg >docs/measurements.md

scenarios:
	script/setup test
	.venv/bin/python tests/root/scenarios.py --out docs/scenarios.md

faults:
	script/setup test
	.venv/bin/python tests/root/faults.py --out docs/faults.md

generate:
	script/setup run
	.venv/bin/python -m qmond.schema page >docs/events.md
	.venv/bin/python -m qmond.schema schema >docs/events.schema.json
	.venv/bin/python -m qmond.ctl.manual >docs/man/qmonctl.1
