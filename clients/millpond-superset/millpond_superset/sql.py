"""How Superset reads and writes SQL for Millpond: it parses each query and prints it anew, with a limit of rows.

What is printed must mean what was written. PostgreSQL's dialect is near, but it would change formats of times, turn
TRY_CAST into CAST, read ^ as a power, round decimals only, and print names of functions in capitals.
"""

from sqlglot import exp
from sqlglot.dialects.postgres import Postgres
from sqlglot.tokens import TokenType


class Millpond(Postgres):
    """DataFusion's SQL."""

    NORMALIZE_FUNCTIONS = "lower"

    class Parser(Postgres.Parser):
        """Functions with formats are just functions here."""

        FUNCTIONS = {
            name: build
            for name, build in Postgres.Parser.FUNCTIONS.items()
            if name not in ("TO_CHAR", "TO_DATE", "TO_TIMESTAMP", "REGEXP_LIKE")
        }
        EXPONENT = {}
        BITWISE = {**Postgres.Parser.BITWISE, TokenType.CARET: exp.BitwiseXor}

    class Generator(Postgres.Generator):
        """What DataFusion has and PostgreSQL has not."""

        TRY_SUPPORTED = True
        TRANSFORMS = {
            kind: write for kind, write in Postgres.Generator.TRANSFORMS.items() if kind not in (exp.Round, exp.TryCast)
        } | {exp.BitwiseXor: lambda self, expression: self.binary(expression, "^")}
