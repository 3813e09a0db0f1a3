"""Whatever is wrong in a job, in an override or with the run directory: one line, exit code 2, nothing on
disk.
"""

import pytest
from support.bad_input_cases import GOOD, LONG

FILES = {
    "nope.yaml": "nope.yaml: no such job file",
    "digits_kakurembo": "did you mean digits_kakurenbo",
    "": ": no such job file",
    "folder": "folder: no such job file",
    LONG: "no such job file",
    "a\nb.yaml": "a\\nb.yaml: no such job file",
    "gone.yaml": "gone.yaml: no such job file",
    "loop.yaml": "loop.yaml: no such job file",
    "/dev/null": "no such job file",
    "broken.yaml": "broken.yaml: not valid YAML",
    "list.yaml": "list.yaml: found ['a'], but a mapping",
    "word.yaml": "found 'hello', but a mapping",
    "empty.yaml": "found None, but a mapping",
    "comment.yaml": "found None, but a mapping",
    "junk": "cannot be read (not UTF-8 text)",
    "utf16.yaml": "cannot be read (not UTF-8 text)",
    "two.yaml": "not valid YAML (expected a single document",
    "tab.yaml": "not valid YAML (while scanning",
    "null.yaml": "not valid YAML (unacceptable character",
    "twice.yaml": "key seed stands twice",
    "deep.yaml": "nested too deeply",
    "laughs.yaml": "its aliases are",
    "merges.yaml": "its aliases are",
    "keys.yaml": "section data is missing or no mapping",
    "windows.yaml": "unknown key speed",
    "object.yaml": "not valid YAML (could not determine a constructor",
    "slurm.yaml": "section data is missing or no mapping",
}


@pytest.mark.parametrize("name", FILES, ids=lambda name: name[:20])
def test_a_file_that_is_no_job(name, refuses):
    assert FILES[name] in refuses("train", name)


OVERRIDES = {
    "training.epochs": "not of the form section.key=value",
    "=5": "not of the form section.key=value",
    "training..epochs=5": "not of the form section.key=value",
    "training.epochs={": "the value is not valid YAML",
    "name=!!python/object/apply:os.system ['touch ran']": "the value is not valid YAML",
    "name.x=1": "name is not a section",
    "a.b.c=1": "unknown key a",
    "training.epoch=5": "unknown key training.epoch; did you mean epochs?",
    "trainin.epochs=5": "unknown key trainin; did you mean training?",
    "training=": "training is None, but must be",
    "training={}": "training.lr is missing; add it",
    "training.epochs=": "training.epochs is None, but must be an integer",
    "training.epochs=five": "training.epochs is 'five', but must be an integer",
    "training.epochs=1.5": "training.epochs is 1.5, but must be an integer",
    "training.epochs=true": "training.epochs is True, but must be an integer",
    "training.epochs=[1]": "training.epochs is [1], but must be an integer",
    "training.epochs=0": "exactly one of epochs and iterations is needed, but neither is given",
    "training.epochs=99999999999999999999": "must be less than 2147483648",
    "training.lr=0": "must be greater than 0",
    "training.lr=.nan": "must be a finite number",
    "training.lr=1e400": "must be a finite number",
    "training.lr=0.1.1": "training.lr is '0.1.1', but must be a number",
    "training.momentum=1": "training.momentum is 1, but must be in [0, 1)",
    "training.batch_per_rank=5": "exactly one of global_batch and batch_per_rank is needed, but both are",
    "training.global_batch=null": "exactly one of global_batch and batch_per_rank is needed, but neither is",
    "training.global_batch=-1": "must be greater than or equal to 1",
    "training.accumulate=70": "too small for 1 ranks x 70 accumulated batches",
    "training.warmup_steps=100000": "warmup_steps",
    "training.optimizer=sdg": "training.optimizer is 'sdg', which is unknown; did you mean sgd",
    "training.optimizer=__init__": "training.optimizer is '__init__', which is unknown",
    "training.precision=fp8": "training.precision is 'fp8', but must be 'fp32', 'bf16' or 'fp16'",
    "training.class_weights=[1]": "class_weights",
    "training.class_weights=[0, 0]": "one of them at least must be above 0",
    "training.sync_batchnorm=true": "set it to false",
    "training.mixup=0.2": "its loss belongs to two samples",
    "name=../x": "must be usable as a folder name",
    "name=' '": "must be usable as a folder name",
    f"name={LONG}": "must be usable as a folder name",
    "name=\x1b[31m": "the value is not valid YAML",
    "seed=-1": "seed is -1",
    "seed=4294967296": "seed is 4294967296",
    "data=digits": "section data is missing or no mapping",
    "data.name=": "data.name is missing",
    "data.name=[digits]": "unknown data.name ['digits']",
    "data.name=digit": "did you mean digits?",
    "data.workers=100000": "must be less than or equal to 256",
    "data.repeats=100000000": "must be less than or equal to 10000",
    "data.augmentation=[flop]": "data.augmentation.0 is 'flop', but there is no step 'flop'; did you mean",
    "data.augmentation=[{crop: {pad: 4}}]": "data.augmentation.0: crop: unknown key pad; did you mean padd",
    "data.augmentation=[{flip: 4}]": "data.augmentation.0: flip has no options; write flip alone",
    "data.augmentation=[{flip: {}, crop: 4}]": "must be one name with its options, such as crop: {",
    "data.augmentation=[{normalize: mnist}]": "mean is mnist, but must be one of imagenet, cifar10",
    "data={augmentation: [{normalize: cifar10}], name: digits}": "must normalize alike, or the",
    "data.evaluation=[flip]": "data.evaluation.0 is 'flip', but there is no step 'flip'",
    "data.evaluation=[{resize: 0}]": "data.evaluation.0: resize: size is 0, but must be greater",
    "data.augmentation=[flip, flip]": "augmentation holds flip twice; keep one",
    "data.drop_classes=[12]": "names class 12, but digits has classes 0 to 9; remove it",
    "data.drop_classes=[0, 1, 2, 3, 4, 5, 6, 7, 8, 9]": "drop_classes",
    "data.placement=there": "must be 'shared' or 'local'",
    "data.placement=local": "samples of digits are not files of their own, which data.placement: local "
    "needs; set it to "
    "shared",
    "data={name: deepcam}": "data.path is missing; add it",
    "data={name: deepcam, path: nope, precision: bf16}": "data.precision is bf16, but training.precision is "
    "fp32, whose layers do not take such inputs; set both to the same",
    "data={name: deepcam, path: 3}": "data.path is 3, but must be a string",
    "data={name: deepcam, path: nope}": "nope/train: cannot be listed (No such file or directory)",
    f"data={{name: deepcam, path: {LONG}}}": "cannot be listed (File name too long)",
    "data={name: deepcam, path: file}": "file/train: cannot be listed (Not a directory)",
    "data={name: deepcam, path: empty}": "empty/train: cannot be listed",
    "data={name: deepcam, path: no_hdf5}": "no_hdf5/train: holds no .h5 files",
    "data={name: deepcam, path: pickled}": "manifest/train.npz: not a manifest that can be read; remove it",
    "data={name: hdf5, path: junk_data}": "data-1.h5: cannot be read as HDF5",
    "model=x": "model is 'x', but must be",
    "model.name=resnet81": "model.name is 'resnet81', which is unknown; did you mean resnet18",
    "model.name=os.system": "model.name is 'os.system', which is unknown",
    "model.name=alexnet": "cannot be built for inputs of shape (1, 8, 8)",
    "model.options={wdth: 3}": "cannot be built",
    "selection=kakurenbo": "section selection is missing or no mapping",
    "selection.method=kakurembo": "did you mean kakurenbo?",
    "selection.prune_ratio=0.5": "selection.prune_ratio is an option of infobatch, seta, not of kakurenbo",
    "selection.max_fraction=30": "is 30, but must be in [0, 1); write 0.3 for 30 percent",
    "selection.max_fraction=.nan": "must be a finite number",
    "selection={method: sample_importance, gamma: .nan}": (
        "selection.gamma is nan, but must be a finite number"
    ),
    "selection={method: static, scores: []}": "must name a score file",
    "selection={method: static, scores: none.h5}": (
        "none.h5: no such score file; write one with kakurenbo score"
    ),
    "selection={method: static, scores: folder}": "folder: no such score file",
    f"selection={{method: static, scores: {LONG}}}": "no such score file",
    "selection={method: static, scores: junk}": "junk: not an HDF5 file",
    "selection={method: static, scores: pickle}": "pickle: not an HDF5 file",
    "selection={method: static, scores: few.h5}": "few.h5: scores of 10 samples, but the data set has 1437",
    "selection={method: static, scores: another.h5}": "but this run's data is another",
    "selection={method: static, scores: words.h5}": "words.h5: no score file, score is missing",
    "selection={method: static, scores: square.h5}": "square.h5: no score file, score is missing",
    "selection={method: static, scores: no_score.h5}": "no_score.h5: no score file, score is missing",
    "selection={method: static, scores: lists.h5}": "lists.h5: no score file, seconds is missing",
    "selection={method: static, scores: endless.h5}": "scores of 1125899906842624 samples",
    "record.keep=0": "record.keep is 0",
}


@pytest.mark.parametrize(
    "override", OVERRIDES, ids=lambda override: override[:60].encode("unicode_escape").decode()
)
def test_an_override_that_cannot_be(override, refuses):
    assert OVERRIDES[override] in refuses("train", GOOD, "--set", override)


WORDS = {
    "no job at all": ([], "Missing argument 'JOB'"),
    "no such option": ([GOOD, "--fast"], "No such option: --fast"),
    "one sample for BatchNorm": (
        [GOOD, "--set", "model.name=resnet18", "--set", "training.global_batch=2"],
        "whose BatchNorm needs two samples at once, but a global batch of 2 in 1 parts",
    ),
    "one word too many": ([GOOD, "fast"], "unexpected extra argument"),
    "no value": ([GOOD, "--set"], "Option '--set' requires an argument"),
    "nothing to resume": ([GOOD, "--resume"], "--resume was given, but no run is there"),
    "nothing to resume in a folder": (
        [GOOD, "--run-dir", "folder", "--resume"],
        "--resume was given, but no run is there",
    ),
    "a run directory that is a file": (
        [GOOD, "--run-dir", "file"],
        "file: a file is there, not a folder; give another --run-dir",
    ),
    "a run directory below a file": (
        [GOOD, "--run-dir", "file/a/b"],
        "file: a file is there, not a folder; give another --run-dir",
    ),
    "a run directory that is a broken link": (
        [GOOD, "--run-dir", "gone.yaml"],
        "not a folder; give another --run-dir",
    ),
    "a run directory with too long a name": (
        [GOOD, "--run-dir", LONG],
        "cannot be used (File name too long); give another --run-dir",
    ),
    "a run directory of somebody else's": (
        [GOOD, "--run-dir", "images"],
        "images: not empty, and not a run of ours",
    ),
    "a run directory that leads elsewhere": ([GOOD, "--run-dir", "linked"], "linked/checkpoints: a link to "),
    "a run directory that nobody can make": (
        [GOOD, "--run-dir", "/proc/run"],
        "/proc/run: cannot be written to",
    ),
}


@pytest.mark.parametrize("case", WORDS)
def test_words_that_cannot_be(case, refuses):
    words, said = WORDS[case]
    assert said in refuses("train", *words)
