# Everything is in script/, which needs no make; this forwards to it.
.PHONY: setup demo test check fuzz generate screens bench scenarios faults attacks install uninstall deb

setup demo test:
	script/$@

check:
	script/setup test
	.venv/bin/pytest -q tests/test_code.py

fuzz:
	script/setup test
	QMOND_FUZZ_SECONDS=600 .venv/bin/pytest -q tests/lines/test_fuzz.py

bench:
	script/setup test
	.venv/bin/python bench/measure.py --plot docs/measurements.svg >docs/measurements.md

scenarios:
	script/setup test
	.venv/bin/python tests/root/scenarios.py --out docs/scenarios.md

attacks:
	script/setup test
	PYTHONPATH=tests/root:bench .venv/bin/python tests/hostile/attacks.py --out docs/attacks.md

faults:
	script/setup test
	.venv/bin/python tests/root/faults.py --out docs/faults.md

screens:
	script/setup test
	PYTHONPATH=tests .venv/bin/python tests/ctl/screens.py --out docs/screens.md

generate:
	script/setup test
	.venv/bin/python -m qmond.events.schema page >docs/events.md
	.venv/bin/python -m qmond.events.schema page docs/events.zh-CN.yaml >docs/events.zh-CN.md
	.venv/bin/python -m qmond.events.schema schema >docs/events.schema.json
	.venv/bin/python -m qmond.ctl.manual >docs/man/qmonctl.1
	.venv/bin/python -m qmond.ctl.manual etc/qmon.yaml >docs/man/qmon.yaml.5

install:
	script/install

uninstall:
	script/install --remove

deb:
	script/deb
