"""Write the table of preflight's rules into docs/preflight.md, from the rules themselves."""

from __future__ import annotations

from pathlib import Path

from neuron_artifacts.backends.nxdi.preflight.catalogue import RULES

PAGE = Path(__file__).parent.parent / "docs" / "preflight.md"
BEGIN, END = "<!-- rules -->", "<!-- end of rules -->"


def render() -> str:
    """A table for each subject, rules in the order of the catalogue."""
    lines: list[str] = []
    subject = None
    for name, rule in RULES.items():
        if rule.subject != subject:
            subject = rule.subject
            lines += ["", f"### {subject}", "", "| rule | severity | when |", "| --- | --- | --- |"]
        lines.append(f"| `{name}` | {rule.severity} | {rule.summary} |")
    return "\n".join((*lines, ""))


def fill_in(page: str) -> str:
    """The page with the table of today between its marks."""
    before, _, rest = page.partition(BEGIN)
    _, _, after = rest.partition(END)
    return f"{before}{BEGIN}\n{render()}\n{END}{after}"


if __name__ == "__main__":
    PAGE.write_text(fill_in(PAGE.read_text()))
