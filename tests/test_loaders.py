"Loaders as fastai's DataBlock allows them: through the caches they give what they give without, or say that they can't."
import functools
import random
import warnings
from types import SimpleNamespace

import fastai.callback.data  # noqa: F401  patches weighted_dataloaders and partial_dataloaders in
import numpy as np
import pandas as pd
import pytest
import torch
from fastai.vision.all import (
    CategoryBlock,
    ColReader,
    ColSplitter,
    CropPad,
    DataBlock,
    DataLoaders,
    Datasets,
    FlipItem,
    GrandparentSplitter,
    ImageBlock,
    ImageDataLoaders,
    IndexSplitter,
    Learner,
    MultiCategoryBlock,
    Normalize,
    Path,
    PILImage,
    PILImageBW,
    RandomSplitter,
    RegressionBlock,
    Resize,
    TensorImage,
    ToTensor,
    Transform,
    aug_transforms,
    get_image_files,
    params,
    parent_label,
    set_seed,
)
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from torch import nn
from torchvision import transforms as tv

from transfer_course.core import CourseError
from transfer_course.data.synthetic import make_picture
from transfer_course.train.callbacks import FlipBatch
from transfer_course.train.models import Photo
from transfer_course.train.precompute import FrozenInEval

CLASSES = 'red-circle', 'blue-square', 'green-star'

@pytest.fixture(scope='module')
def place(tmp_path_factory):
    "A folder of 24 pictures by class, each with a label file beside it; caches in a folder of their own"
    root = tmp_path_factory.mktemp('pictures')
    for i in range(24):
        folder = root/('valid' if i >= 18 else 'train')/CLASSES[i % 3]
        folder.mkdir(parents=True, exist_ok=True)
        make_picture(CLASSES[i % 3], i, 20).save(folder/f'{i}.png')
        (folder/f'{i}.txt').write_text(CLASSES[i % 3])
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv('TRANSFER_COURSE_RUNS', str(tmp_path_factory.mktemp('runs')))
        yield root

# --- transforms of a reader's own; those with chance in them are named `Chance…` ---

class Dark(Transform):
    split_idx,order = 0,2
    def encodes(self, x:PILImage): return type(x).create((np.array(x)*.3).astype('uint8'))

class ChanceShade(Transform):
    order = 2
    def encodes(self, x:PILImage): return type(x).create((np.array(x)*random.random()).astype('uint8'))

class ChanceRare(Transform):
    order = 2
    def __init__(self): self.g = np.random.default_rng(0)
    def encodes(self, x:PILImage): return x.rotate(90) if self.g.uniform() < .001 else x

class Wrapped(Transform):
    "A transform of torchvision's"
    order = 2
    def __init__(self, t): self.t = t
    def encodes(self, x:PILImage): return type(x).create(np.array(self.t(x)))

class ChanceWrapped(Wrapped): pass

class Invert(Transform):
    order = 99
    def encodes(self, x:TensorImage): return 1-x

class ChanceMirror(Transform):
    split_idx,order = 0,99
    def encodes(self, x:TensorImage): return torch.where((torch.rand(len(x)) < .5).to(x.device)[:, None, None, None], x.flip(-1), x)

def word(o): return Path(o).with_suffix('.txt').read_text()
def words(o): return word(o).split('-')
def number(o): return float(int(Path(o).stem))
def numbers(o): return [number(o), 2.]
def shape(o): return word(o).partition('-')[2]
def picture_of(o): return o.with_suffix('.png')
def opened(o): return PILImage.create(o.with_suffix('.png')).rotate(90)

ITEMS = 'paths', 'strings', 'names', 'label files', 'table', 'own opening'
TARGETS = dict(category=(CategoryBlock, word), multi=(MultiCategoryBlock, words), number=(RegressionBlock, number),
               numbers=(functools.partial(RegressionBlock, n_out=2), numbers))
ITEM = dict(none=[], dark=[Dark], flip=[FlipItem], center=[lambda: Wrapped(tv.CenterCrop(14))], shade=[ChanceShade], rare=[ChanceRare],
            erase=[lambda: ChanceWrapped(tv.RandomApply([tv.Pad(0)], p=.01))], pad=[lambda: CropPad(24)])
BATCH = dict(none=[], normalize=[lambda: Normalize.from_stats([.5], [.5], cuda=False)], invert=[Invert], flip=[FlipBatch],
             mirror=[ChanceMirror], aug=[lambda: aug_transforms(size=16)])
RESIZE = dict(squish=lambda: Resize(16, method='squish'), crop=lambda: Resize(16), tall=lambda: Resize((24, 16), method='squish'))
CHANCE_ITEM,CHANCE_BATCH = {'flip', 'shade', 'rare', 'erase'}, {'flip', 'mirror', 'aug'}

OPENS = dict(PILImage=PILImage, PILImageBW=PILImageBW, Photo=Photo)

recipes = st.fixed_dictionaries(dict(
    items=st.sampled_from(ITEMS), target=st.sampled_from(list(TARGETS)),
    item=st.sampled_from(list(ITEM)), batch=st.sampled_from(list(BATCH)),
    resize=st.sampled_from(['squish', 'squish', 'squish', 'crop', 'tall']),
    split=st.sampled_from(['random', 'index', 'empty']),
    drawn=st.sampled_from(['plain', 'plain', 'weighted', 'partial']),
    opens=st.sampled_from(['PILImage', 'PILImage', 'PILImageBW', 'Photo']),
    bs=st.sampled_from([1, 4, 7]), workers=st.sampled_from([0]*9+[1]), shuffle=st.booleans()))

def loaders_of(r, place) -> DataLoaders:
    "Loaders by a recipe"
    files = sorted(get_image_files(place))
    block,y = TARGETS[r.target]
    if r.items == 'names':
        of = {o.stem: o for o in files}
        items,x,label = sorted(of), lambda o: of[o], lambda o: y(of[o])
    elif r.items == 'table':
        items,x = pd.DataFrame(dict(name=[str(o.relative_to(place)) for o in files])), ColReader('name', pref=f'{place}/')
        label = lambda row: y(place/row['name'])  # noqa: E731
    else:
        items = [str(o) for o in files] if r.items == 'strings' else [o.with_suffix('.txt') for o in files] if r.items == 'label files' \
            else files
        x,label = dict([('label files', picture_of), ('own opening', opened)]).get(r.items), y
    splitter = dict(random=RandomSplitter(seed=1), index=IndexSplitter(range(5)), empty=RandomSplitter(0.))[r.split]
    item = [RESIZE[r.resize](), *(f() for f in ITEM[r.item])]
    batch = [f() for f in BATCH[r.batch]]
    db = DataBlock((ImageBlock(OPENS[r.opens]), block), get_x=x, get_y=label, splitter=splitter, item_tfms=item,
                   batch_tfms=batch[0] if r.batch == 'aug' else batch)
    kw = dict(bs=r.bs, num_workers=r.workers, device='cpu')
    if r.drawn == 'plain': return db.dataloaders(items, shuffle=r.shuffle, **kw)
    dsets = db.datasets(items)
    kw |= dict(after_item=db.item_tfms, after_batch=db.batch_tfms)
    if r.drawn == 'partial': return dsets.partial_dataloaders(9, **kw)
    return dsets.weighted_dataloaders(np.arange(len(dsets.train))+1., **kw)

def twins(make):
    "The same loaders twice"
    made = []
    for _ in range(2):
        set_seed(3)
        made.append(make())
    return made

def batches(dls, epochs=2):
    set_seed(5)
    return [b for _ in range(epochs) for dl in dls.loaders for b in dl]

def assert_same(plain, cached):
    a,b = batches(plain), batches(cached)
    assert len(a) == len(b)
    for p,q in zip(a, b, strict=True):
        for s,t in zip(p, q, strict=True): assert type(s) is type(t) and s.dtype == t.dtype and torch.equal(s, t)

def frozen_learner(dls) -> Learner:
    "A small net, its body frozen"
    set_seed(0)
    channels = len(dls.train_ds[0][0].getbands()) # no batch is drawn
    body = nn.Sequential(nn.Conv2d(channels, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten())
    learn = Learner(dls, nn.Sequential(body, nn.Linear(16, 3)), nn.CrossEntropyLoss(), splitter=lambda m: [params(m[0]), params(m[1])])
    learn.freeze()
    return learn

def assert_same_activations(plain, learn, head):
    body = learn.model[0].eval()
    set_seed(5)
    with torch.no_grad(): a = [(body(x.as_subclass(torch.Tensor)), *y) for dl in plain.loaders for x,*y in dl]
    b = batches(head.dls, 1)
    assert len(a) == len(b)
    for p,q in zip(a, b, strict=True):
        torch.testing.assert_close(q[0], p[0], atol=1e-5, rtol=1e-5)
        for s,t in zip(p[1:], q[1:], strict=True): assert torch.equal(s, t)

def accepted(f, said:list):
    "What a call gives; None where it says that it can't"
    try: return f()
    except CourseError as e: said.append(str(e))

def check(r, place) -> list|None: # What was refused and why; None where it had to be
    "Plain, decoded and precomputed are equal, or refused; what is random is refused"
    chance_item = r.item in CHANCE_ITEM or r.resize == 'crop'
    plain,other = twins(lambda: loaders_of(r, place))
    decoded = accepted(other.decoded, said := [])
    assert not (chance_item and decoded)
    if decoded: assert_same(plain, decoded)
    plain,other = twins(lambda: loaders_of(r, place))
    if not len(plain.train): return None # a batch that never fills
    learn = frozen_learner(other)
    head = accepted(learn.precompute, said)
    assert not ((chance_item or r.batch in CHANCE_BATCH) and head)
    plain,_ = twins(lambda: loaders_of(r, place))
    if head: assert_same_activations(plain, learn, head)
    return None if chance_item or r.batch in CHANCE_BATCH else said

def check_many(n, place):
    seen = []
    @settings(max_examples=n, deadline=None, derandomize=n < 100, database=None, phases=[Phase.generate],
              suppress_health_check=list(HealthCheck))
    @given(recipes)
    def each(r): seen.append(check(SimpleNamespace(**r), place))
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        each()
    fixed = [o for o in seen if o is not None]
    assert len(fixed) > n/10
    assert np.mean([not o for o in fixed]) >= .95, list(filter(None, fixed))

def test_random_loaders(place): check_many(30, place)

@pytest.mark.slow
def test_many_random_loaders(place): check_many(500, place)

# --- Loaders as fastai's documentation builds them ---

def as_documented(place) -> dict:
    "Name to a function that makes loaders"
    files = sorted(get_image_files(place))
    table = pd.DataFrame(dict(name=[str(o.relative_to(place)) for o in files], label=[o.parent.name for o in files],
                              tags=[o.parent.name.replace('-', ' ') for o in files], value=[number(o) for o in files],
                              valid=[i % 4 == 0 for i in range(len(files))]))
    csv = place/'labels.csv'
    table.to_csv(csv, index=False)
    kw = dict(item_tfms=Resize(16, method='squish'), bs=4, num_workers=0, device='cpu')
    few = {k: v for k,v in kw.items() if k != 'item_tfms'}
    image,made = ImageDataLoaders, dict(item_tfms=kw['item_tfms'])
    label = lambda o: o.parent.name  # noqa: E731
    def block(blocks, items=files, **given): return DataBlock(blocks, **(made | given)).dataloaders(items, **few)
    def datasets():
        dsets = Datasets(files, [[PILImage.create], [parent_label, *CategoryBlock().type_tfms]], splits=RandomSplitter(seed=1)(files))
        return dsets.dataloaders(after_item=[Resize(16, method='squish'), ToTensor()], **few)
    return {
        'from_folder, train and valid': lambda: image.from_folder(place, train='train', valid='valid', **kw),
        'from_folder, a part at random': lambda: image.from_folder(place, valid_pct=.25, seed=1, **kw),
        'from_path_func': lambda: image.from_path_func(place, files, label, seed=1, **kw),
        'from_name_func': lambda: image.from_name_func(place, files, lambda name: str(len(name)), seed=1, **kw),
        'from_path_re': lambda: image.from_path_re(place, files, r'/([^/]+)/\d+.png$', seed=1, **kw),
        'from_name_re': lambda: image.from_name_re(place, files, r'^(\d)', seed=1, **kw),
        'from_lists': lambda: image.from_lists(place, files, [label(o) for o in files], seed=1, **kw),
        'from_df': lambda: image.from_df(table, place, fn_col='name', label_col='label', seed=1, **kw),
        'from_df, several labels': lambda: image.from_df(table, place, fn_col='name', label_col='tags', label_delim=' ', seed=1, **kw),
        'from_df, numbers': lambda: image.from_df(table, place, fn_col='name', label_col='value', y_block=RegressionBlock, **kw),
        'from_df, parts by a column': lambda: image.from_df(table, place, fn_col='name', label_col='label', valid_col='valid', **kw),
        'from_csv': lambda: image.from_csv(place, csv.name, fn_col='name', label_col='label', seed=1, **kw),
        'grandparent folders': lambda: block((ImageBlock, CategoryBlock), get_y=parent_label,
                                             splitter=GrandparentSplitter('train', 'valid')),
        'get_items': lambda: DataBlock((ImageBlock, CategoryBlock), get_items=get_image_files, get_y=parent_label,
                                       splitter=RandomSplitter(seed=1), **made).dataloaders(place, **few),
        'columns of a table': lambda: block((ImageBlock, CategoryBlock), table, get_x=ColReader('name', pref=place),
                                            get_y=ColReader('label'), splitter=ColSplitter('valid')),
        'black and white': lambda: block((ImageBlock(cls=PILImageBW), CategoryBlock), get_y=parent_label),
        'two targets': lambda: block((ImageBlock, CategoryBlock, RegressionBlock), n_inp=1, get_y=[parent_label, number]),
        'Datasets': datasets,
        'aug_transforms': lambda: block((ImageBlock, CategoryBlock), get_y=parent_label, batch_tfms=aug_transforms(size=16)),
        'two pictures': lambda: block((ImageBlock, ImageBlock), get_y=lambda o: o),
    }


def test_loaders_as_documented(place):
    refuses = {'two pictures': 'changed together with the picture'}
    docs = as_documented(place)
    assert len(docs) == 20
    for name,make in docs.items():
        plain,other = twins(make)
        if name in refuses:
            with pytest.raises(CourseError, match=refuses[name]): other.decoded()
        else: assert_same(plain, other.decoded())

def test_a_picture_that_changes_is_decoded_again(place, tmp_path):
    "Items are label files: it is the picture that counts"
    for i in range(6):
        make_picture(CLASSES[0], i, 20).save(tmp_path/f'{i}.png')
        (tmp_path/f'{i}.txt').write_text('label')
    def means():
        block = DataBlock((ImageBlock, RegressionBlock), get_x=picture_of, get_y=number, item_tfms=Resize(16, method='squish'))
        dls = block.dataloaders(sorted(tmp_path.glob('*.txt')), bs=2, num_workers=0, device='cpu')
        return [float(torch.cat([x for x,_ in o.train.new(shuffle=False)]).mean()) for o in (dls, dls.decoded())]
    before = means()
    assert before[0] == before[1]
    for o in tmp_path.glob('*.png'): PILImage.create(np.zeros((20, 20, 3), 'uint8')).save(o)
    assert means() == [0, 0]

def test_views_have_the_probability_of_the_flip(place):
    r = SimpleNamespace(items='paths', target='category', item='none', batch='none', resize='squish', split='index', drawn='plain',
                        opens='PILImage', bs=4, workers=0, shuffle=True)
    dls = loaders_of(r, place)
    dls.train.after_item.add(FlipItem(.9))
    learn = frozen_learner(dls)
    rows = learn.precompute(views=2).dls.train.rows
    set_seed(0)
    assert .87 < torch.cat([rows._drawn(64) for _ in range(40)]).float().mean() < .93

@pytest.mark.parametrize('before', ['fine-tuned', 'frozen', 'free'])
def test_frozen_layers_stay_after_any_training(place, before):
    "Trained before, then frozen: the cache gives the losses of training from pictures, to the last digit"
    r = SimpleNamespace(items='paths', target='category', item='none', batch='normalize', resize='squish', split='index', drawn='plain',
                        opens='PILImage', bs=4, workers=0, shuffle=True)
    def trained(through_cache):
        learn = frozen_learner(loaders_of(r, place))
        with learn.no_bar(), learn.no_logging():
            if before == 'fine-tuned': learn.fine_tune(1, precompute=True)
            if before == 'free': learn.unfreeze()
            if before != 'fine-tuned': learn.fit(1, 1e-2)
            learn.freeze()
            worker = learn.precompute() if through_cache else learn
            was = {k: v.clone() for k,v in learn.model[0].state_dict().items()}
            set_seed(1)
            worker.fit_one_cycle(3, 1e-2, cbs=None if through_cache else FrozenInEval(learn.model[0]))
            assert all(torch.equal(was[k], v) for k,v in learn.model[0].state_dict().items())
            return [list(o) for o in worker.recorder.values], list(learn.validate())
    set_seed(0)
    one = trained(True)
    set_seed(0)
    assert one == trained(False)

def test_a_head_gives_all_that_a_learner_gives(place, tmp_path):
    "What takes pictures is done by the whole net; what is saved, the whole net can load; what is old says so"
    from fastai.callback.tracker import SaveModelCallback
    r = SimpleNamespace(items='paths', target='category', item='none', batch='none', resize='squish', split='index', drawn='plain',
                        opens='PILImage', bs=4, workers=0, shuffle=True)
    learn = frozen_learner(loaders_of(r, place))
    learn.path = tmp_path
    head,files = learn.precompute(), sorted(get_image_files(place))
    with learn.no_bar(), head.no_bar(), learn.no_logging(), head.no_logging():
        head.fit(1, 1e-3, cbs=SaveModelCallback(fname='best'))
        learn.load('best')
        head.fit(1, 1e-3, reset_opt=True)
        assert head.opt is learn.opt
        for a,b in ((head.get_preds(), learn.get_preds()), (head.tta(n=2), learn.tta(n=2)),
                    (head.get_preds(dl=head.dls.test_dl(files[:3])), learn.get_preds(dl=learn.dls.test_dl(files[:3])))):
            torch.testing.assert_close(a[0], b[0], atol=1e-6, rtol=1e-5)
        head.dls.show_batch()
        with pytest.raises(CourseError, match='for pictures'): head.dls.valid.new(after_item=[])
        learn.unfreeze()
        learn.fit(1, 1e-2)
        with pytest.raises(CourseError, match='have changed'): head.validate()

def test_a_decoded_loader_follows_new_transforms(place):
    r = SimpleNamespace(items='paths', target='category', item='dark', batch='none', resize='squish', split='index', drawn='plain',
                        opens='PILImage', bs=4, workers=0, shuffle=False)
    plain,other = twins(lambda: loaders_of(r, place))
    cached = other.decoded()
    assert_same(plain, cached)
    larger = [o.valid.new(after_item=[Resize(32, method='squish'), ToTensor()]).one_batch()[0] for o in (plain, cached)]
    assert torch.equal(*larger) and larger[0].shape[-1] == 32
    for o in (plain.valid, cached.valid): o.dataset.tls[0].tfms.split_idx = 0 # as test-time augmentation does
    assert torch.equal(*(o.valid.one_batch()[0] for o in (plain, cached)))
