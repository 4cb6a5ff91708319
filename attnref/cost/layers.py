"""What the layers around attention cost.

Each reads its inputs and parameters once and writes its result once, as an eager framework
runs it; an addition or an activation is a pass of its own. Tiling changes nothing here. What
is kept for the backward pass is the input, unless another layer keeps that already.
"""

from dataclasses import dataclass

from attnref.cost.counts import Cost, Setting, Together, Work


def same(
    setting: Setting, *, multiply_adds: int = 0, moved: int = 0, kept: int = 0, parameters: int = 0
) -> Cost:
    """A cost that is the same with tiles and without."""
    item = setting.itemsize
    work = Work(multiply_adds=multiply_adds, bytes=item * moved, kept=item * kept)
    return Cost(parameters=parameters, tiled=work, untiled=work)


@dataclass(frozen=True, slots=True, kw_only=True)
class Linear:
    """A linear layer on rows: `rows * inputs * outputs` multiply-adds.

    Args:
        rows: How many vectors pass.
        inputs: Their size.
        outputs: The size of the results.
        bias: Whether there is one.
        tied: The weight is another layer's parameter.
        kept: Whether the input is kept; `False` where a layer before it keeps the same.

    Example:
        >>> Linear(rows=1, inputs=512 * 768, outputs=512 * 768, bias=False).parameters
        154618822656
    """

    rows: int
    inputs: int
    outputs: int
    bias: bool = True
    tied: bool = False
    kept: bool = True

    @property
    def parameters(self) -> int:
        """Weight and bias."""
        weight = 0 if self.tied else self.inputs * self.outputs
        return weight + self.bias * self.outputs

    def forward(self, setting: Setting = Setting()) -> Cost:  # noqa: B008  # frozen
        """Read input and parameters, write the result."""
        return same(
            setting,
            parameters=self.parameters,
            multiply_adds=self.rows * self.inputs * self.outputs,
            moved=self.rows * (self.inputs + self.outputs) + self._read,
            kept=self.kept * self.rows * self.inputs,
        )

    def backward(self, setting: Setting = Setting()) -> Cost:  # noqa: B008  # frozen
        """Two products: one for the gradient of the input, one for that of the weight."""
        return same(
            setting,
            parameters=self.parameters,
            multiply_adds=2 * self.rows * self.inputs * self.outputs,
            moved=2 * self.rows * (self.inputs + self.outputs)
            + self.inputs * self.outputs
            + self._read,
        )

    @property
    def _read(self) -> int:
        return self.inputs * self.outputs + self.bias * self.outputs


@dataclass(frozen=True, slots=True, kw_only=True)
class Norm:
    """A layer norm, or an RMS norm.

    Args:
        rows: How many vectors pass.
        columns: Their size.
        scale: Whether there is a scale.
        shift: Whether there is a shift.

    Example:
        >>> Norm(rows=196, columns=768).parameters
        1536
    """

    rows: int
    columns: int
    scale: bool = True
    shift: bool = True

    @property
    def parameters(self) -> int:
        """Scale and shift."""
        return (self.scale + self.shift) * self.columns

    def forward(self, setting: Setting = Setting()) -> Cost:  # noqa: B008  # frozen
        """Read once, write once; no multiply-add of a matrix product."""
        n = self.rows * self.columns
        return same(setting, parameters=self.parameters, moved=2 * n + self.parameters, kept=n)

    def backward(self, setting: Setting = Setting()) -> Cost:  # noqa: B008  # frozen
        """Read the input and what flows in, write what flows out."""
        n, p = self.rows * self.columns, self.parameters
        return same(setting, parameters=p, moved=3 * n + 2 * p)


@dataclass(frozen=True, slots=True, kw_only=True)
class Pointwise:
    """A pass over numbers: an activation, or the addition of a residual.

    Args:
        numbers: How many there are.
        operands: How many arrays of them are read.
        kept: How many of them are kept.

    Example:
        >>> Pointwise(numbers=10, operands=2, kept=0).forward().tiled.bytes
        120
    """

    numbers: int
    operands: int = 1
    kept: int = 1

    parameters = 0

    def forward(self, setting: Setting = Setting()) -> Cost:  # noqa: B008  # frozen
        """Read the operands, write the result."""
        n = self.numbers
        return same(setting, moved=(self.operands + 1) * n, kept=self.kept * n)

    def backward(self, setting: Setting = Setting()) -> Cost:  # noqa: B008  # frozen
        """Read two, write one: what was kept and what flows in, or what flows in from two sides."""
        return same(setting, moved=3 * self.numbers)


@dataclass(frozen=True, slots=True, kw_only=True)
class Embedding:
    """Rows of a table, looked up, or a table that is added.

    Args:
        rows: Looked-up rows.
        entries: Rows of the table.
        columns: Their size.

    Example:
        >>> Embedding(rows=1024, entries=50257, columns=768).parameters
        38597376
    """

    rows: int
    entries: int
    columns: int

    @property
    def parameters(self) -> int:
        """The table."""
        return self.entries * self.columns

    def forward(self, setting: Setting = Setting()) -> Cost:  # noqa: B008  # frozen
        """Read the rows and write them."""
        return same(setting, parameters=self.parameters, moved=2 * self.rows * self.columns)

    def backward(self, setting: Setting = Setting()) -> Cost:  # noqa: B008  # frozen
        """Read what flows in, and add it to the rows of a gradient as large as the table."""
        moved = 3 * self.rows * self.columns + self.parameters
        return same(setting, parameters=self.parameters, moved=moved)


def mlp(rows: int, columns: int, hidden: int, *, bias: bool = True, kept: bool = True) -> Together:
    """Two linear layers with an activation between them.

    Args:
        rows: How many vectors pass.
        columns: Their size.
        hidden: Their size in between.
        bias: Whether both layers have one.
        kept: Whether the input is kept here.

    Example:
        >>> mlp(197, 768, 3072).parameters
        4722432
    """
    return Together(
        (
            (1, Linear(rows=rows, inputs=columns, outputs=hidden, bias=bias, kept=kept)),
            (1, Pointwise(numbers=rows * hidden)),
            (1, Linear(rows=rows, inputs=hidden, outputs=columns, bias=bias)),
        )
    )
