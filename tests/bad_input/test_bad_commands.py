"""Every other command: whatever is wrong on its line or in the files that it names, one line, exit code 2,
nothing on disk.
"""

from typing import Annotated, get_args, get_origin, get_type_hints

import pytest
import typer
from support.bad_input_cases import GOOD, LONG

from kakurenbo_hpc.cli import app
from kakurenbo_hpc.cli.arguments import expand

ON_SLURM = [GOOD, "--machine", "slurm.yaml", "--walltime", "2h"]

LAUNCH = {
    "no job": ([], "Missing argument 'JOB'"),
    "no job file": (["nope"], "nope: no such job file"),
    "an override without a value": ([GOOD, "--set", "a"], "not of the form section.key=value"),
    "no ranks": ([GOOD, "--ranks", "0"], "--ranks is '0', but must be"),
    "ranks in words": ([GOOD, "--ranks", "two"], "--ranks is 'two', but must be"),
    "ranks beyond all": ([GOOD, "--ranks", "100000000000000"], "--ranks is '100000000000000', but"),
    "ranks that do not divide": (
        [GOOD, "--nodes", "2", "--ranks", "3"],
        "--ranks is 3, not divisible by 2 nodes",
    ),
    "ranks that a node does not take": (
        [GOOD, "--machine", "slurm.yaml", "--ranks", "9"],
        "at most 4 on a node",
    ),
    "more ranks than samples of a batch": ([GOOD, "--ranks", "100000"], "too small for 100000 ranks"),
    "ranks beyond the cores": (
        [GOOD, "--ranks", "100000", *("--set", "training.global_batch=null")]
        + ["--set", "training.batch_per_rank=1"],
        "start at most 8 ranks a core",
    ),
    "an octal seed": ([GOOD, "--set", "seed=010"], "--set seed=010: 010, line 1: YAML reads this as octal"),
    "a run directory of a variable that is not set": (
        [GOOD, "--run-dir=$NOT_SET_HERE/x"],
        "$NOT_SET_HERE/x: contains a user or a variable that is not known here",
    ),
    "a run directory of nobody": ([GOOD, "--run-dir=~nobody_at_all/x"], "that is not known here"),
    "a data folder of a variable that is not set": (
        [GOOD, "--set", "data={name: deepcam, path: $NOT_SET_HERE/x}"],
        "data.path is '$NOT_SET_HERE/x', but contains a user or a variable",
    ),
    "a machine misspelt": ([GOOD, "--machine", "locl"], "locl: no such machine file"),
    "a machine without a name": ([GOOD, "--machine", ""], ": no such machine file"),
    "a machine that is a folder": ([GOOD, "--machine", "folder"], "folder: no such machine file"),
    "a machine that is junk": ([GOOD, "--machine", "junk"], "cannot be read (not UTF-8 text)"),
    "a machine that is a list": ([GOOD, "--machine", "list.yaml"], "found ['a'], but a mapping"),
    "a machine that is a bomb": ([GOOD, "--machine", "merges.yaml"], "its aliases are"),
    "a machine that is a job": ([GOOD, "--machine", "twice.yaml"], "key seed stands twice"),
    "a machine with a wrong type": (
        [GOOD, "--machine", "many.yaml"],
        "ranks_per_node is 'many', but must be an integer",
    ),
    "a machine with a huge number": ([GOOD, "--machine", "huge.yaml"], "must be less than 2147483648"),
    "a machine that would run something": (
        [GOOD, "--machine", "shell.yaml"],
        "modules.0 is 'openmpi; touch ran', but must be one word",
    ),
    "a machine that would make something": (
        [GOOD, "--machine", "object.yaml"],
        "not valid YAML (could not determine a constructor",
    ),
    "a machine of another make": (
        [GOOD, "--machine", "lsf.yaml"],
        "scheduler is 'lsf', but there is no such scheduler; known: flux, none, pbs, slurm",
    ),
}

SUBMIT = {
    "no machine": ([GOOD], "Missing option '--machine'"),
    "no walltime": ([GOOD, "--machine", "slurm.yaml"], "Missing option '--walltime'"),
    "no job file": (["nope", *ON_SLURM[1:]], "nope: no such job file"),
    "a machine without a batch system": (
        [GOOD, "--machine", "local", "--walltime", "2h"],
        "local has no batch system",
    ),
    "no walltime at all": ([*ON_SLURM, "--walltime", ""], "--walltime : not a time"),
    "a walltime of nothing": ([*ON_SLURM, "--walltime", "0h"], "no time at all"),
    "a walltime without a unit": ([*ON_SLURM, "--walltime", "2"], "--walltime 2: not a time; write 2h"),
    "a negative walltime": ([*ON_SLURM, "--walltime", "-2h"], "not a time"),
    "a walltime of 99 minutes": ([*ON_SLURM, "--walltime", "1:99:00"], "not a time"),
    "a walltime in Arabic": ([*ON_SLURM, "--walltime", "١h"], "not a time"),
    "a walltime without an end": ([*ON_SLURM, "--walltime", "9" * 30 + "d"], "not a time"),
    "a walltime shorter than the grace": (
        [*ON_SLURM, "--walltime", "3m"],
        "told to leave 180 s before its end",
    ),
    "no nodes": ([*ON_SLURM, "--nodes", ""], "--nodes is '', but must be different whole numbers from 1 on"),
    "a node twice": ([*ON_SLURM, "--nodes", "1,1"], "must be different whole numbers"),
    "nodes from to": ([*ON_SLURM, "--nodes", "1-2"], "must be different whole numbers"),
    "no node": ([*ON_SLURM, "--nodes", "0"], "must be different whole numbers"),
    "nodes beyond all": ([*ON_SLURM, "--nodes", "9" * 12], "must be different whole numbers"),
    "nodes with more ranks than a batch": ([*ON_SLURM, "--nodes", "16"], "too small for 64 ranks"),
    "several sizes, of what": ([*ON_SLURM, "--nodes", "1,3"], "say with --scaling strong or weak"),
    "a scaling nobody knows": ([*ON_SLURM, "--scaling", "medium"], "--scaling is medium, but must be strong"),
    "seeds in words": ([*ON_SLURM, "--array-of-seeds", "a"], "--array-of-seeds is 'a'"),
    "seeds beyond all": ([*ON_SLURM, "--array-of-seeds", "9" * 12], "--array-of-seeds is"),
    "a name that leads elsewhere": (
        [*ON_SLURM, "--name", "../elsewhere"],
        "which is not usable as a folder name",
    ),
    "a name of dots": ([*ON_SLURM, "--name", ".."], "which is not usable as a folder name"),
    "a name too long": ([*ON_SLURM, "--name", LONG], "which is not usable as a folder name"),
    "a dependency that would run something": (
        [*ON_SLURM, "--dependency", "$(touch ran)"],
        "'$(touch ran)', but must be one word",
    ),
    "a run directory that is a file": (
        [*ON_SLURM, "--run-dir", "file"],
        "file: a file is there, not a folder",
    ),
    "a run directory below a file": (
        [*ON_SLURM, "--run-dir", "file/x"],
        "file: a file is there, not a folder",
    ),
    "a run directory with too long a name": (
        [*ON_SLURM, "--run-dir", LONG],
        "cannot be used (File name too long)",
    ),
    "a run directory that leads elsewhere": (
        [*ON_SLURM, "--run-dir", "linked_batch"],
        "linked_batch/batch: a link to ",
    ),
    "no batch system here": (
        [GOOD, "--machine", "pbs.yaml", "--walltime", "2h", "--run-dir", "folder"],
        "no qsub on the PATH",
    ),
}

FOLLOW = {
    "no run": (["status"], "name a run directory, or say --all"),
    "a run and all runs": (["status", "--all", "list"], "name a run directory, or say --all"),
    "all of none": (["status", "--all"], "runs: nothing was submitted for a run there"),
    "a run that is not there": (["status", "nope"], "nope: nothing was submitted for a run there"),
    "a run that is a file": (["status", "file"], "file: nothing was submitted for a run there"),
    "a run with too long a name": (["status", LONG], "nothing was submitted for a run there"),
    "a run that was not submitted": (
        ["status", "nothing_submitted"],
        "nothing was submitted for a run there",
    ),
    "a submission to nobody": (["status", "of_lsf"], "of_lsf/batch/submission.json: not what submit wrote"),
    "a submission to a list": (
        ["status", "of_a_list"],
        "of_a_list/batch/submission.json: not what submit wrote",
    ),
    "a submission that is a list": (["status", "list"], "list/batch/submission.json: not what submit wrote"),
    "a submission that is junk": (
        ["status", "junk_run"],
        "junk_run/batch/submission.json: not what submit wrote",
    ),
    "a submission without an end": (
        ["status", "deep_run"],
        "deep_run/batch/submission.json: not what submit wrote",
    ),
    "a job id that is an option": (
        ["status", "option"],
        "option/batch/jobs.txt: contains '--user=me', which is not a job id",
    ),
    "cancelling nothing": (["cancel"], "Missing argument 'RUN'"),
    "cancelling what is not there": (["cancel", "nope"], "nope: nothing was submitted"),
    "cancelling an option": (
        ["cancel", "option"],
        "option/batch/jobs.txt: contains '--user=me', which is not a job id",
    ),
    "cancelling what is junk": (["cancel", "junk_run"], "not what submit wrote"),
    "the log of nothing": (["logs"], "logs: name a run directory, or a job with --job ID"),
    "the log of what is not there": (["logs", "nope"], "nope: nothing was submitted"),
    "the log of a file": (["logs", "file/x"], "file/x: nothing was submitted"),
    "a log that is not there yet": (
        ["logs", "never_accepted"],
        "log.txt: not written yet, the job is failed (was never accepted)",
    ),
    "the log of what is not there, followed": (["logs", "empty", "--follow"], "empty: nothing was submitted"),
    "a machine too many": (["machines", "local"], "unexpected extra argument"),
    "no such command": (["trian"], "No such command 'trian'"),
}

DOCTOR = {
    "no job file": (["nope"], "nope: no such job file"),
    "a job that is junk": (["junk"], "junk: cannot be read (not UTF-8 text)"),
    "an override without a value": ([GOOD, "--set", "a"], "not of the form section.key=value"),
    "an override with a wrong type": (
        [GOOD, "--set", "training.epochs=x"],
        "training.epochs is 'x', but must be an integer",
    ),
    "an override of no job": (["--set", "training.epochs=2"], "--set changes a job, but none is named"),
    "a job too many": ([GOOD, GOOD], "unexpected extra argument"),
    "a machine misspelt": (["--machine", "locl"], "locl: no such machine file"),
    "a machine that is a folder": (["--machine", "folder"], "folder: no such machine file"),
    "a machine that is junk": (["--machine", "junk"], "cannot be read (not UTF-8 text)"),
    "a machine with a wrong type": (
        ["--machine", "many.yaml"],
        "ranks_per_node is 'many', but must be an integer",
    ),
    "a machine that would run something": (
        ["--machine", "shell.yaml"],
        "modules.0 is 'openmpi; touch ran', but must be one word",
    ),
    "no nodes": (["--nodes", "0"], "Invalid value for '--nodes'"),
    "nodes beyond all": (["--nodes", "100000000000000"], "Invalid value for '--nodes'"),
    "no ranks": (["--ranks", "0"], "Invalid value for '--ranks'"),
    "ranks in words": (["--ranks", "two"], "Invalid value for '--ranks'"),
    "ranks beyond all": (["--ranks", "100000000000000"], "Invalid value for '--ranks'"),
}

SCORE = {
    "no method": ([], "Missing argument 'METHOD'"),
    "no job": (["el2n"], "Missing argument 'JOB'"),
    "a method nobody knows": (["el3n", GOOD], "score el3n: no such scoring method; did you mean el2n?"),
    "no job file": (["el2n", "nope"], "nope: no such job file"),
    "epochs below none": (["el2n", GOOD, "--epochs", "-1"], "Invalid value for '--epochs'"),
    "no repeats": (["el2n", GOOD, "--repeats", "0"], "Invalid value for '--repeats'"),
    "too short to forget": (["forgetting", GOOD, "--epochs", "1"], "forgetting takes at least 2"),
    "a model nobody knows": (["el2n", GOOD, "--set", "model.name=resnet81"], "did you mean resnet18"),
    "a file that is a folder": (
        ["el2n", GOOD, "--out", "folder"],
        "folder: a folder is there, not a file; give another --out",
    ),
    "a file below a file": (
        ["el2n", GOOD, "--out", "file/x.h5"],
        "file: a file is there, not a folder; give another --out",
    ),
    "a file with too long a name": (
        ["el2n", GOOD, "--out", LONG],
        "cannot be used (File name too long); give another --out",
    ),
}

_SHARED = ("a method nobody knows", "too short to forget", "a file that is a folder", "a file below a file")
SCORE_ANYWHERE = {name: SCORE[name] for name in _SHARED} | {
    "an option nobody knows": (["craig", GOOD, "--option", "fractoin=0.7"], "did you mean fraction"),
    "a share of another form": (["irreducible", GOOD, "--hold-out", "half"], "must be hash:SHARE"),
    "a last layer of no gradient": (["el2n", GOOD, "--last-layer"], "score el2n: unknown key last_layer"),
    "an average of choices": (["craig", GOOD, "--repeats", "2"], "cannot be averaged; give --repeats 1"),
}

COMPARE = {
    "no file": ([], "Missing argument 'FILE'"),
    "a file that is not there": (["nope"], "nope: no such job file"),
    "a folder": (["folder"], "folder: no such job file"),
    "junk": (["junk"], "junk: cannot be read (not UTF-8 text)"),
    "a bomb": (["laughs.yaml"], "its aliases are"),
    "a file that would make something": (
        ["object.yaml"],
        "not valid YAML (could not determine a constructor",
    ),
    "a job": ([GOOD], "job is missing; add it"),
    "a name that leads elsewhere": (
        ["up.yaml"],
        "name is '../elsewhere/x', but must be usable as a folder name",
    ),
    "no contenders": (["no_contenders.yaml"], "contenders is {}, but"),
    "a contender that is no job": (
        ["bad_contender.yaml"],
        "contender a: unknown selection.method 'randm'",
    ),
    "scores by an option nobody knows": (
        ["bad_scores.yaml"],
        "contender a: score craig: unknown key fractoin",
    ),
    "a job that is junk": (["of_junk.yaml"], "junk: cannot be read (not UTF-8 text)"),
    "a job that is the comparison": (
        ["of_itself.yaml"],
        "of_itself.yaml: everything: section data is missing or no mapping",
    ),
    "a seed below none": (["bad_seeds.yaml"], "seeds.0 is -1"),
    "a seed beyond all": (["huge_seeds.yaml"], "seeds.0 is 1099511627776"),
    "a wrong type for everybody": (["bad_set.yaml"], "training.epochs is 'x', but must be an integer"),
    "no seeds": (["good.yaml", "--seeds", "0"], "Invalid value for '--seeds'"),
    "seeds beyond all": (["good.yaml", "--seeds", "1000000000"], "Invalid value for '--seeds'"),
    "an override without a value": (["good.yaml", "--set", "x"], "not of the form section.key=value"),
    "methods of a comparison": (
        ["good.yaml", "--methods", "random"],
        "section data is missing or no mapping",
    ),
    "no methods": ([GOOD, "--methods", "everything"], "--methods names nothing but everything"),
    "a method that leads elsewhere": (
        [GOOD, "--methods", "../x"],
        "name is 'digits_kakurenbo_../x', but must be usable as a folder name",
    ),
    "a method without its option": ([GOOD, "--methods", "static"], "selection.scores is missing; add it"),
    "methods and the smaller size": (
        [GOOD, "--methods", "random", "--quick"],
        "--quick and --methods are both given",
    ),
    "results in a file": (
        ["good.yaml", "--out", "file"],
        "file: a file is there, not a folder; give another --out",
    ),
    "results where nothing can be": (
        ["good.yaml", "--out", "/proc/results"],
        "/proc/results: cannot be written to (",
    ),
    "results that lead elsewhere": (["good.yaml", "--out", "linked"], "linked/checkpoints: a link to "),
}

DATA = {
    "no command": (["fetch"], "No such command 'fetch'"),
    "staging for no machine": (["stage", GOOD, "--machine", "nope"], "nope: no such machine file"),
    "staging no job": (["stage", "nope", "--scratch", "scratch"], "nope: no such job file"),
    "staging what is no file": (
        ["stage", GOOD, "--scratch", "scratch"],
        "samples of digits are not files of their own",
    ),
    "staging nothing": (
        ["stage", GOOD, "--scratch", "s", "--set", "data={name: deepcam, path: nope}"],
        "nope/train: cannot be listed",
    ),
    "making nothing of it": (["make", "weather"], "No such command 'weather'"),
    "making it nowhere": (["make", "deepcam"], "Missing argument 'DIR'"),
    "making it in a file": (["make", "deepcam", "file", "--samples", "1"], "file: cannot be written to"),
    "making it below a file": (
        ["make", "deepcam", "file/x", "--samples", "1"],
        "file/x: cannot be written to (Not a directory)",
    ),
    "making it among other things": (
        ["make", "deepcam", "images", "--samples", "1"],
        "images: not empty, and nothing that was begun here",
    ),
    "making none": (["make", "deepcam", "made", "--samples", "0"], "Invalid value for '--samples'"),
    "making more than there are days": (
        ["make", "deepcam", "made", "--samples", "9" * 12],
        "Invalid value for '--samples'",
    ),
    "making dots": (["make", "deepcam", "made", "--height", "4"], "Invalid value for '--height'"),
    "making more than fits": (
        ["make", "deepcam", "made", "--height", "100000", "--width", "100000"],
        "are free; choose a larger disk",
    ),
    "making with no seed": (["make", "deepcam", "made", "--seed", "-1"], "Invalid value for '--seed'"),
    "figures of nothing": (["stats"], "Missing argument 'DIR'"),
    "figures of what is not there": (["stats", "nope"], "nope/train: found no .h5 files there"),
    "figures of a file": (["stats", "file"], "file/train: found no .h5 files there"),
    "figures of no HDF5": (["stats", "junk_data"], "data-1.h5: cannot be read"),
    "figures of other data": (["stats", "no_data"], "data-1.h5: has no dataset climate/data of numbers"),
    "figures of words": (["stats", "words"], "data-1.h5: has no dataset climate/data of numbers"),
    "figures of what has no end": (
        ["stats", "endless"],
        "says that climate/data has 4,503,599,627,370,496 bytes; the file is damaged",
    ),
    "packing nothing": (["pack"], "Missing argument 'SOURCE'"),
    "packing what is not there": (
        ["pack", "nope", "packed"],
        "nope/train: cannot be listed (No such file or directory)",
    ),
    "packing a file": (["pack", "file", "packed"], "file/train: cannot be listed (Not a directory)"),
    "packing no classes": (["pack", "images_empty", "packed"], "images_empty/train: found no folders there"),
    "packing no images": (["pack", "no_images", "packed"], "no_images/train/cat: found no images there"),
    "packing what are no images": (["pack", "images", "packed"], "a.png: cannot be read as an image"),
    "packing half": (
        ["pack", "images_no_validation", "packed"],
        "images_no_validation/validation: cannot be listed",
    ),
    "packing dots": (["pack", "images", "packed", "--size", "0"], "Invalid value for '--size'"),
}

GROUPS = {
    "launch": LAUNCH,
    "submit": SUBMIT,
    None: FOLLOW,
    "doctor": DOCTOR,
    "score": SCORE | SCORE_ANYWHERE,
    "launch score": SCORE_ANYWHERE,
    "submit score": {
        name: ([*words, "--machine", "slurm.yaml", "--walltime", "2h"], said)
        for name, (words, said) in SCORE_ANYWHERE.items()
    },
    "compare": COMPARE,
    "data": DATA,
}


@pytest.mark.parametrize(
    ("command", "case"), [(command, case) for command, cases in GROUPS.items() for case in cases]
)
def test_one_line_that_says_what(command, case, refuses):
    words, said = GROUPS[command][case]
    assert said in refuses(*(command or "").split(), *words)


def commands(group: typer.Typer):
    """Yield the function of each command, and of those of its groups."""
    yield from (command.callback for command in group.registered_commands)
    for inner in group.registered_groups:
        yield from commands(inner.typer_instance)


def test_a_path_on_any_command_line_is_expanded():
    """No shell expands ~ and variables in --out=~/x, and a folder named ~ is nobody's wish."""
    found = 0
    for command in commands(app):
        for name, hint in get_type_hints(command, include_extras=True).items():
            if get_origin(hint) is Annotated and "Path" in str(get_args(hint)[0]):
                assert get_args(hint)[1].parser is expand, f"{command.__name__}: {name}"
                found += 1
    assert found > 20
