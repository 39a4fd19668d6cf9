"""The buttons under messages, and what a press of one carries: at most 64 bytes."""

from aiogram.types import InlineKeyboardButton, InlineKeyboardMarkup

from xlab.serving.telegram.settings import LABELS, NAMES, WritingSettings, read, written

REPEAT, CONTINUE, SET, EXPLAIN, RESET = "repeat", "continue", "set", "explain", "reset"


def text_keyboard(name: str, *, has_text: bool = True) -> InlineKeyboardMarkup:
    """The buttons under a text of that name in the store; where nothing was written, nothing can go on."""
    buttons = [_button("🔁 Repeat", REPEAT, name)]
    if has_text:
        buttons.append(_button("➡️ Continue", CONTINUE, name))
    return InlineKeyboardMarkup(inline_keyboard=[buttons])


def settings_keyboard(settings: WritingSettings) -> InlineKeyboardMarkup:
    """A row for each setting: one step down, what it is, one step up."""
    rows = []
    for name in NAMES:
        # a button carries the value it leads to, not a step: pressed twice in haste, it leads to the same
        down, up = settings.neighbours(name)
        now = f"{LABELS[name]}: {written(getattr(settings, name))}"
        rows.append(
            [
                _button("➖", SET, name, written(down)),
                _button(now, EXPLAIN, name),
                _button("➕", SET, name, written(up)),
            ]
        )
    rows.append([_button("Back to the defaults", RESET)])
    return InlineKeyboardMarkup(inline_keyboard=rows)


def changed(settings: WritingSettings, data: str) -> WritingSettings:
    """The settings after a press of a ``set`` or ``reset`` button.

    Raises:
        ValueError: if it is no button of this version's.
    """
    match data.split(":"):
        case ["set", name, value]:
            return settings.with_value(name, read(name, value))
        case ["reset"]:
            return WritingSettings()
        case _:
            raise ValueError(f"no button carries {data!r}")


def _button(label: str, *data: str) -> InlineKeyboardButton:
    return InlineKeyboardButton(text=label, callback_data=":".join(data))
