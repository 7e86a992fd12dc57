"""What went wrong because of what somebody asked for, as opposed to what broke here."""


class InputError(ValueError):
    """A request that cannot be carried out: ``field`` is the argument at fault ("" for all), ``text`` says why."""

    def __init__(self, field: str, text: str) -> None:
        super().__init__(f"{field}: {text}" if field else text)
        self.field = field
        self.text = text
