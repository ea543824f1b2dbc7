"""A GPU rehearsed without one: some of this machine's tensors are tagged as living on `cuda:0`.

They hold real numbers, so what is computed is the same to the bit. What would fail on a GPU fails here: mixing devices in one operation,
`.numpy()` on the device, a tensor that was forgotten on the CPU. It can't see pickles, graph capture, real memory, kernels of their own,
other streams, worker processes or `torch.cuda.*`: those wait for `make gpu`."""
import contextlib
import sys
import weakref

import fastai.torch_core  # noqa: F401 (to be there when its names are replaced)
import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

CPU, GPU = torch.device('cpu'), torch.device('cuda', 0)
# these may take any device
_SHARED = 'aten.copy_', 'aten._to_copy', 'aten._local_scalar_dense', 'aten.set_', 'aten.lift_fresh', 'aten.detach', 'aten.alias'

class _Tags:
    "Which storages are on the pretended device"
    def __init__(self): self.known = {}
    def __contains__(self, t): return t.untyped_storage()._cdata in self.known
    def discard(self, t): self.known.pop(t.untyped_storage()._cdata, None)
    def add(self, t):
        storage = t.untyped_storage()
        key = storage._cdata
        self.known.setdefault(key, weakref.ref(storage, lambda _: self.known.pop(key, None)))

TAGS = _Tags()

def _tensors(o): return [t for t in tree_leaves(o) if isinstance(t, torch.Tensor)]

def _tag(out):
    for t in _tensors(out): TAGS.add(t)
    return out

def _names_gpu(o): return isinstance(o, (str, torch.device)) and str(o).startswith('cuda')

class _Check(TorchDispatchMode):
    "Below autograd: one operation, one device"
    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name, given = str(func), _tensors((args, kwargs or {}))
        here = [t for t in given if t in TAGS]
        if here and not name.startswith(_SHARED):
            elsewhere = [t for t in given if t not in TAGS and t.dim()]
            if name.startswith(('aten.index.', 'aten.index_put')): # indices may be on the CPU
                elsewhere = [t for t in elsewhere if t is args[0]]
            if elsewhere: raise RuntimeError(f'Expected all tensors to be on the same device, but found cuda:0 and cpu ({name})')
        out = func(*args, **(kwargs or {}))
        return _tag(out) if here and not name.startswith(('aten.copy_', 'aten._local')) else out

def _target(name, args, kwargs):
    "The device that `cpu`, `cuda` or `to` asks for; None: as it is"
    if name != 'to': return GPU if name == 'cuda' else CPU
    for o in (*args, *kwargs.values()):
        if isinstance(o, torch.Tensor): return GPU if o in TAGS else CPU
        if isinstance(o, (str, torch.device)): return GPU if _names_gpu(o) else CPU

def _move(t, name, args, kwargs):
    "`cpu`, `cuda` or `to` of a tensor"
    target, was = _target(name, args, kwargs), GPU if t in TAGS else CPU
    out = t
    if name == 'to':
        on_cpu = lambda o: CPU if isinstance(o, (str, torch.device)) else o
        kwargs = {k: on_cpu(v) for k, v in kwargs.items() if k != 'non_blocking'}
        if args or kwargs: out = torch.Tensor.to(t, *map(on_cpu, args), **kwargs)
    if target in (None, was): return _tag(out) if was == GPU else out
    if out.untyped_storage()._cdata == t.untyped_storage()._cdata: out = out.clone()
    if target == GPU: return _tag(out)
    TAGS.discard(out)
    return out

class Pretend(TorchFunctionMode):
    "Inside, `cuda` is a name for this machine's memory"
    def __enter__(self):
        self.check = _Check()
        self.check.__enter__()
        return super().__enter__()

    def __exit__(self, *args):
        super().__exit__(*args)
        self.check.__exit__(*args)

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs, name = dict(kwargs or {}), getattr(func, '__name__', '')
        t = args[0] if args and isinstance(args[0], torch.Tensor) else None
        if func == torch.Tensor.device.__get__ and t in TAGS: return GPU
        if func == torch.Tensor.is_cuda.__get__: return t in TAGS
        if func == torch.Tensor.is_cpu.__get__: return t not in TAGS
        if t is not None and name in ('numpy', '__array__') and t in TAGS:
            raise TypeError("can't convert cuda:0 device type tensor to numpy. Use Tensor.cpu() to copy the tensor to host memory first.")
        if t is not None and name in ('cpu', 'cuda', 'to'): return _move(t, name, args[1:], kwargs)
        asked = name != '_parse_to' and _names_gpu(kwargs.get('device'))
        if asked: kwargs['device'] = CPU
        out = func(*args, **kwargs)
        return _tag(out) if asked or (name == '__deepcopy__' and t in TAGS) else out

@contextlib.contextmanager
def pretended_gpu(kind='plain'): # As from `processor_kind`: which numerics are chosen
    "The course and fastai find a GPU; what they compute is the same to the bit"
    homes = [m for n, m in list(sys.modules.items()) if n.startswith(('transfer_course', 'fastai', 'golden', '__main__'))]
    homes += [torch, torch.cuda]
    generator = torch.Generator
    memory = lambda device=None: (8*2**30, 8*2**30) # free, in all
    new = dict(get_device=lambda: 'cuda', processor_kind=lambda device=None: kind, default_device=lambda use=-1: GPU,
               mem_get_info=memory, get_device_name=lambda device=None: 'pretended', Generator=lambda device='cpu': generator())
    old = [(m, k, vars(m)[k]) for m in homes for k in new if k in vars(m)]
    for m, k, _ in old: setattr(m, k, new[k])
    try:
        with Pretend(): yield
    finally:
        for m, k, f in old: setattr(m, k, f)
