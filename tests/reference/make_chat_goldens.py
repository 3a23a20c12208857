"""Write, or check, ``tests/data/chat_templates/expected.json`` with transformers.

Run from the repository root in an environment with the ``reference`` extra::

    python -m tests.reference.make_chat_goldens            # rewrite
    python -m tests.reference.make_chat_goldens --check    # render again and compare

The file maps each template to each conversation's rendering, or to ``{"error": message}`` where it
is refused; the message is the template's own, and empty where transformers refuses.
"""

from __future__ import annotations

import argparse
import json
import sys
from datetime import datetime
from typing import Any

import tokenizers
import transformers
from jinja2 import TemplateError
from transformers.utils import chat_template_utils

from tests.reference.chat_cases import CONVERSATIONS, EXPECTED, NOW, TEMPLATES, special_tokens


class _Frozen(datetime):
    @classmethod
    def now(cls, tz: Any = None) -> datetime:
        return NOW


def render(tokenizer: Any, case: dict[str, Any]) -> str | dict[str, str]:
    """What transformers makes of one conversation, or what the template says against it."""
    options: dict[str, Any] = {"add_generation_prompt": True, **case}
    messages = options.pop("messages")
    try:
        text: str = tokenizer.apply_chat_template(messages, tokenize=False, **options)
    except TemplateError as error:
        return {"error": str(error)}
    except (ValueError, TypeError):
        return {"error": ""}
    return text


def render_all() -> dict[str, Any]:
    rendered: dict[str, Any] = {"transformers": transformers.__version__}
    for path in sorted(TEMPLATES.glob("*.jinja")):
        tokenizer = transformers.PreTrainedTokenizerFast(
            tokenizer_object=tokenizers.Tokenizer(tokenizers.models.WordLevel({}, "<unk>")),
            chat_template=path.read_text(encoding="utf-8"),
            **special_tokens(path.stem),
        )
        rendered[path.stem] = {
            name: render(tokenizer, dict(case)) for name, case in CONVERSATIONS.items()
        }
    return rendered


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--check", action="store_true")
    chat_template_utils.datetime = _Frozen
    rendered = render_all()
    if not parser.parse_args().check:
        text = json.dumps(rendered, ensure_ascii=False, indent=1, sort_keys=True)
        EXPECTED.write_text(text + "\n", encoding="utf-8")
        return 0
    committed = json.loads(EXPECTED.read_text(encoding="utf-8"))
    different = [
        f"{template}: {name}"
        for template in rendered.keys() - {"transformers"}
        for name in rendered[template]
        if committed.get(template, {}).get(name) != rendered[template][name]
    ]
    print("\n".join(different) or "all as committed")
    return bool(different)


if __name__ == "__main__":
    sys.exit(main())
