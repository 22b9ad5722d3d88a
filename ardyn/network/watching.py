"""The module's own run, watched: autograd's graph is cut behind each unit.

A TorchFunctionMode sees every torch call of the run, of modules and of functional code alike, with
its real values. What a call returns is replaced by a leaf of autograd where it is the value of a
unit; anything else stays in autograd's graph. So hooks, control flow, random numbers and training
mode mean what they mean to backprop: it is the same run. A mistake about *where* to cut changes
which units relax, never a gradient: autograd differentiates what is not cut.
"""

import operator
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from ardyn.ensembles import each_member
from ardyn.network import calls
from ardyn.network.activations import Activation, called_activation, identity
from ardyn.network.calls import RunningModules
from ardyn.network.containers import swap_tensors, tensors_in
from ardyn.network.cuts import VIEWS, Below, CannotCutError, Cut, Returned
from ardyn.network.layer_calls import LAYERS, called_layer
from ardyn.network.layers import Layer, Operation, PassThrough
from ardyn.network.network import Units
from ardyn.network.put_back import alias
from ardyn.network.values import NO_INPUTS, Values


class Watch(TorchFunctionMode):
    """A torch mode under which a module's run is cut into units.

    Args:
        modules: by name, the whole among them.
        parameters: by name; a tensor under several names goes by the first.
        given: values to put in place of those of cuts, by their index; those of a layer with a
            local rule, or of its activation, are not computed then.
        whole: names of modules within which nothing is cut.
        is_cutting: False: units are found, but autograd's graph stays in one piece.
    """

    def __init__(
        self,
        modules: Mapping[str, nn.Module],
        parameters: Mapping[str, Tensor],
        units: Units,
        given: Mapping[int, Tensor] | None = None,
        whole: frozenset[str] = frozenset(),
        is_cutting: bool = True,
    ) -> None:
        super().__init__()
        self.modules, self.parameters, self.units = modules, parameters, units
        self.given, self.whole, self.is_cutting = given or {}, whole, is_cutting
        self.running = RunningModules(modules)
        names = {id(parameters[name]): name for name in reversed(list(parameters))}
        self.names, self.values = names, Values(names)
        self.is_hooked = any(m._backward_hooks or m._backward_pre_hooks for m in modules.values())
        self.graph = self.values.graph
        self.cuts: list[Cut] = []
        self.outputs: list[Cut] = []
        self.fed: dict[str, Cut | Tensor] = {}
        """The inputs; cut if they require a gradient."""
        self.reading: list[Tensor] = []
        """What the last call read."""
        self.ending = ""
        """The last operation that returned no gradient."""
        # By the identity of a tensor, which ``values`` keeps alive.
        self._handed: dict[int, Cut] = {}
        self._replaced: dict[int, Cut] = {}
        self._made: dict[int, str] = {}
        self._viewed: set[int] = set()
        self._saving = calls.saving_hooks()

    # What goes in and out

    def feed(self, name: str, x: Tensor) -> Tensor:
        """An input, as the module receives it; cut if it requires a gradient."""
        if x.requires_grad:
            self.fed[name] = cut = self._cut(x, name, relaxes=False)
            cut.name = name
            self.graph.reached(x)
            return cut.handed
        is_smooth = calls.is_continuous(x)
        if is_smooth:
            self.fed[name] = x
        self.values.mark(x, frozenset({name}) if is_smooth else NO_INPUTS, is_smooth)
        return x

    def end(self, x: Tensor) -> Tensor:
        """An output, as the loss receives it: cut if a gradient could reach it."""
        x = self._take(x)
        cut = self._handed.get(id(x))
        if cut is None or x._version:
            if not self._is_worth_cutting(x):
                return x
            place = self._made.get(id(x)) or self.names.get(id(x)) or "output"
            cut = self._cut(x, place, relaxes=False)
        # A parameter that is itself an output has no leak.
        cut.relaxes |= cut.value.grad_fn is not None or self.values.inputs_of(cut.value) is not None
        if cut not in self.outputs:
            self.outputs.append(cut)
        return cut.handed

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs, name = kwargs or {}, getattr(func, "__name__", "")
        if name in calls.QUERIES:
            return func(*args, **kwargs)
        if name == "__get__":
            found = func(*args, **kwargs)
            if func == calls.GRAD_FN:  # hooks on a node of the graph cannot be watched
                self._record_hook(args[0])
            if not isinstance(found, Tensor):
                return found
            if func == calls.DATA and id(args[0]) in self._handed:  # nor can writing on the data
                raise CannotCutError(tuple(self.running.around()))
        given = tensors_in((args, kwargs))
        if not given:
            return func(*args, **kwargs)
        if name in calls.HOOKING:
            return self._hook(func, args, kwargs)
        if not torch.is_grad_enabled() or self._is_whole_here():
            return self._call_uncut(func, args, kwargs)
        if name in calls.DIFFERENTIATING:
            raise CannotCutError(tuple(self.running.around()))
        self.reading = list(map(self._take, given))
        if any(map(operator.is_not, self.reading, given)):
            args, kwargs = swap_tensors((args, kwargs), self._take)
        for x in self.reading:
            cut = self._handed.get(id(x))
            if cut is not None:
                cut.readers += 1
        return self._call(func, name, args, kwargs)

    # What a call is

    def _call(self, func: Any, name: str, args: tuple[Any, ...], kwargs: Any) -> Any:
        f = called_activation(func, args, kwargs)
        if f is not None and len(self.reading) == 1 and self.values.is_plain_data(self.reading[0]):
            return self._activate(f, func, args, kwargs)
        if func in LAYERS:
            layer = called_layer(func, args, kwargs, lambda x: self.names.get(id(x)))
            if layer is not None and self.values.is_plain_data(layer[1]):
                return self._run_layer(func, args, kwargs, *layer)
        given = [*self.reading, *(args[0].parameters() if func is each_member else ())]
        written = calls.written_on(func, name, args, kwargs)
        if written is not None and id(written) in self._viewed:
            raise CannotCutError((VIEWS,))
        read = self.values.read(given)
        token = (func, *map(self.values.token, given))
        out = func(*args, **kwargs)
        found = tensors_in(out)
        self.values.record(token, found)
        if not read.has_data:
            return out
        for x in found:
            self.values.mark(x, read.inputs, read.is_smooth and func not in calls.DETACHING)
        if written is not None or any(x is y for x in found for y in given):
            return self._write_back(func, out, out if written is None else written)
        if not any(x.requires_grad for x in found) and any(x.requires_grad for x in given):
            self.ending = repr(calls.plain_name(func))
        return self._cut_what_is_new(func, out, found, read.has_parameters)

    def _run_layer(
        self, func: Any, args: tuple[Any, ...], kwargs: Any, layer: Layer, x: Tensor
    ) -> Tensor:
        """A layer with a local rule."""
        inputs = self.values.inputs_of(x) or NO_INPUTS
        token = (func, layer, self.values.token(x))
        for name in layer.names:
            self.graph.reached(self.parameters[name])
        known = self.given.get(len(self.cuts))
        out = func(*args, **kwargs) if known is None else torch.empty_like(known)
        self.values.record(token, [out])
        self.values.mark(out, inputs)
        place = self.running.place(func, True)
        as_is = self._is_as_it_was(x)
        below = Below(x if as_is else alias(x), as_is)  # whatever is written on it later
        return self._cut(out, place, layer, below=below).handed

    def _activate(self, f: Activation, func: Any, args: tuple[Any, ...], kwargs: Any) -> Tensor:
        """An elementwise activation: of a layer, or a unit of its own."""
        (x,) = self.reading
        joins = self._handed.get(id(x))
        if joins and (x._version or not joins.relaxes or not joins.layer.names):
            joins = None
        read = self.values.read([x])
        in_place = calls.written_on(func, func.__name__, args, kwargs) is not None
        if in_place and id(x) in self._viewed:
            raise CannotCutError((VIEWS,))
        below, is_view = Below(alias(x), self._is_as_it_was(x)), x._is_view()
        token = (func, f, self.values.token(x))
        joins = joins if self.units == "block" else None
        known = self.given.get(len(self.cuts)) if joins else None
        y: Tensor = func(*args, **kwargs) if known is None else known
        self.values.record(token, [y])
        self.values.mark(y, read.inputs, read.is_smooth)
        if not read.is_smooth or (in_place and is_view):
            return y
        cut = self._cut(y, self.running.place(func), PassThrough(), f, below, joins)
        if in_place:
            self._replaced[id(x)] = cut
        return cut.handed

    def _cut_what_is_new(
        self, func: Any, out: Any, found: list[Tensor], has_parameters: bool
    ) -> Any:
        """Cut the values of units, and those where several values meet, which are no units."""
        relaxes = has_parameters or self.units == "operation"
        # A view where values meet is one of a tensor that was written on, and may be again.
        cutting = [x for x in found if self._is_worth_cutting(x) and (relaxes or not x._is_view())]
        place, call = self.running.place(func, has_parameters), len(self.cuts)
        if not relaxes and all(len(self.graph.reached(x).cuts) < 2 for x in cutting):
            self._made |= dict.fromkeys(map(id, cutting), place)
            return out
        part = {id(x): f".{i}" if out is not x else "" for i, x in enumerate(found)}
        cuts = {
            id(x): self._cut(x, place, relaxes=relaxes, returned=Returned(call, part[id(x)]))
            for x in cutting
        }
        return swap_tensors(out, lambda x: cuts[id(x)].handed if id(x) in cuts else x)

    def _write_back(self, func: Any, out: Any, written: Any) -> Any:
        """After work in place; a unit of its own only where every operation is one."""
        if self.units == "block" or out is not written or written._is_view():
            return out
        if not self._is_worth_cutting(written):
            return out
        return self._cut(written, self.running.place(func)).handed

    # Cutting

    def _cut(
        self,
        value: Tensor,
        place: str,
        layer: Layer = Operation(),  # noqa: B008  (frozen)
        activation: Activation = identity,
        below: Below = Below(),  # noqa: B008  (frozen)
        joins: Cut | None = None,
        relaxes: bool = True,
        returned: Returned | None = None,
    ) -> Cut:
        index = len(self.cuts)
        inputs = self.values.inputs_of(value) or NO_INPUTS
        goes_on = not self.is_cutting and value.requires_grad
        leaf = self.given.get(index, value)
        leaf = alias(value) if goes_on else leaf.detach().requires_grad_()
        cut = Cut(
            index,
            place,
            returned or Returned(index),
            value,
            leaf,
            alias(leaf),
            layer,
            activation,
            below,
            joins,
            inputs,
            relaxes,
        )
        self.cuts.append(cut)
        self.graph.end_at(index, leaf, cut.handed, goes_on)
        self._handed[id(cut.handed)] = self._replaced[id(value)] = cut
        if value._is_view():
            self._viewed |= {id(value._base), id(cut.handed)}
        self.values.number_cut(cut.handed, index)
        return cut

    def _take(self, x: Tensor) -> Tensor:
        """What a call reads in place of a tensor."""
        cut = self._replaced.get(id(x))
        if cut is None and self._mixes(x):
            cut = self._cut(x, self.values.owner(x))
        return x if cut is None else cut.handed

    def _mixes(self, x: Tensor) -> bool:
        """Whether a layer computed it that was not watched, such as a scripted module.

        A view of such a value is left as it is: writing on it must change the value.
        """
        if self.graph.is_end(x) or x.grad_fn is None or x._is_view():
            return False
        reached = self.graph.reached(x)
        return bool(reached.cuts and reached.leaves) and calls.can_be_cut(x)

    def _hook(self, func: Any, args: tuple[Any, ...], kwargs: Any) -> Any:
        """A hook on a unit's value takes part in its gradient, which local rules do not call."""
        self._record_hook(args[0])
        cut = self._handed.get(id(args[0]))
        if cut is not None and cut.value.requires_grad:
            return func(cut.value, *args[1:], **kwargs)
        return func(*args, **kwargs)

    def _record_hook(self, x: Tensor) -> None:
        self.is_hooked = True
        self.values.calls.append(("hook", self.values.token(x)))

    def _call_uncut(self, func: Any, args: tuple[Any, ...], kwargs: Any) -> Any:
        """A call that is not cut: without gradients, or within a module that stays whole."""
        if torch.is_grad_enabled():
            replaced = self._replaced
            args, kwargs = swap_tensors(
                (args, kwargs), lambda x: replaced[id(x)].handed if id(x) in replaced else x
            )
        given = tensors_in((args, kwargs))
        out = func(*args, **kwargs)
        if any(self.values.inputs_of(x) is not None or x.requires_grad for x in given):
            for x in tensors_in(out):
                self.values.mark(x, NO_INPUTS, False)
        return out

    # What is known of a tensor

    def _is_worth_cutting(self, x: Tensor) -> bool:
        stays = VIEWS in self.whole and x._is_view()
        return self.values.has_gradient(x) and calls.can_be_cut(x) and not stays

    def _is_as_it_was(self, x: Tensor) -> bool:
        """Whether this is an input or the value of a cut, unmodified since."""
        if id(x) in self._handed:
            return x._version == 0
        return any(x is each for each in self.fed.values())

    # Where the run is

    def _is_whole_here(self) -> bool:
        """Whether nothing is cut now: in a transform, a checkpoint, a module that stays whole."""
        if torch._C._functorch.peek_interpreter_stack() is not None:
            return True
        if calls.saving_hooks() != self._saving:
            return True
        return bool(self.whole) and not self.whole.isdisjoint(self.running.around())

    def name_of(self, leaf: int) -> str:
        """The name of a parameter, or one for a leaf that the module does not list."""
        return self.names.get(leaf) or f"unlisted {list(self.graph.leaves).index(leaf)}"
