"""Pipeline: a datapath described as a chain of small steps, cut by registers after chosen steps."""

from inspect import signature

from amaranth.hdl import Signal, Value

__all__ = ["pipeline"]


def pipeline(m, steps, inputs, cuts):
    """Chain combinational steps; put a register after each step in ``cuts`` and after the last.

    A step is a function from values to a dict of values. It takes what it names as its parameters,
    from the inputs or from the step which last returned that name. At a cut, exactly the values
    that a later step takes are registered, so a step can be added, or a cut be moved, without
    counting cycles anywhere. The registers have no reset.

    Parameters
    ----------
    m : Module
        Where the logic goes.
    steps : dict[str, Callable]
        The steps in order, by name.
    inputs : dict[str, Value]
        The values the chain begins with.
    cuts : Collection[str]
        Names of the steps after which a register is placed.

    Returns
    -------
    dict[str, Value]
        The values of the last step, registered: ``len(cuts) + 1`` cycles after the inputs.
    """
    names = list(steps)
    takes = [set(signature(step).parameters) for step in steps.values()]
    values = dict(inputs)
    for number, name in enumerate(names):
        results = steps[name](**{key: values[key] for key in takes[number]})
        for key, value in results.items():
            value = Value.cast(value)
            values[key] = Signal(value.shape(), name=f"{name}__{key}")
            m.d.comb += values[key].eq(value)
        last = number == len(names) - 1
        if last or name in cuts:
            later = set(results) if last else set().union(*takes[number + 1:])
            for key in [key for key in values if key in later]:
                register = Signal(values[key].shape(), name=f"{name}__{key}__r", reset_less=True)
                m.d.sync += register.eq(values[key])
                values[key] = register
    return {key: values[key] for key in results}
