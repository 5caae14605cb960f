"""The command line: instant, helpful, and strict about what it does not know."""

from __future__ import annotations

import inspect
import re
import shlex
import subprocess
import sys
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import nearfar
from nearfar import methods
from nearfar.cli.commands import COMMANDS, pretrain_parser
from nearfar.cli.main import _done, main
from nearfar.cli.signatures import REQUIRED, read_signature
from nearfar.cli.synonyms import ADVICE, SYNONYMS
from nearfar.cli.synonyms import COMMANDS as MEANT
from nearfar.core.config import settings_of
from nearfar.data.modalities import MODALITIES, modality
from nearfar.images.view_settings import Views
from nearfar.queries import QUERIES
from nearfar.training import settings

HELPS = [
    ["--help"],
    *([name, "--help"] for name in COMMANDS),
    ["pretrain", "--method", "simclr", "--help"],
]


@pytest.mark.parametrize("words", HELPS, ids=" ".join)
def test_help_imports_nothing_heavy(words: list[str]) -> None:
    code = (
        "import sys\nfrom nearfar.cli.main import main\n"
        f"try:\n    main({words!r})\nexcept SystemExit:\n    pass\n"
        "heavy = {'torch', 'numpy', 'PIL', 'numba', 'timm', 'pyarrow', 'torchvision'} & {*sys.modules}\n"
        "print('heavy:', sorted(heavy), 'modules:', len(sys.modules))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    last = done.stdout.splitlines()[-1]
    assert last.startswith("heavy: [] "), last
    assert int(last.split()[-1]) < 250, last  # benchmarks/start.py says what they take


@pytest.mark.parametrize("command", COMMANDS)
def test_help_begins_with_an_example_that_parses(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main([command, "--help"])
    assert ended.value.code == 0
    first = capsys.readouterr().out.splitlines()[0]
    words = first.removeprefix("example: ").split()
    assert words[:2] == ["nearfar", command]
    COMMANDS[command](words[2:]).read(words[2:])


def test_every_setting_of_a_method_shows_in_its_help(capsys: pytest.CaptureFixture[str]) -> None:
    for method in methods.METHODS:
        with pytest.raises(SystemExit):
            main(["pretrain", "--method", method, "--help"])
        text = capsys.readouterr().out
        for cls in (settings.Training, Views, methods.settings(method)):
            for item in settings_of(cls):
                assert re.search(rf"^  {item.flag}[ ,\n]", text, re.MULTILINE), item.flag
                assert " ".join(item.help.split()[:3]) in text


def shown_defaults(text: str) -> list[tuple[str, str]]:
    """Find in a help text each flag whose default it shows, and that default."""
    found = []
    for entry in re.split(r"\n(?=  -)", text.split("\n\nset by the recipes")[0]):
        flag = re.match(r" *(--[a-z0-9-]+)", entry)
        default = re.search(r"\(default ([^;),]+?)(?=[;),]|: )", " ".join(entry.split()))
        if flag and default:
            found.append((flag[1], default[1]))
    return found


@pytest.mark.parametrize("command", COMMANDS)
def test_every_default_that_is_shown_can_be_typed(command: str) -> None:
    from nearfar.training import resolve

    parser = COMMANDS[command](())
    words = parser.example.split()[2:]
    shown = shown_defaults(parser.format_help())
    trains = command in ("check", "views", "pretrain", "compare", "sweep")
    assert len(shown) >= (15 if trains and command != "views" else 0)
    for flag, default in shown:
        rest = [word for at, word in enumerate(words) if flag not in (word, words[at - 1])]
        typed = [flag if default == "yes" else f"--no-{flag[2:]}"]
        if default not in ("yes", "no"):
            typed = [flag, *default.split()]
        value = parser.read([*rest, *typed])
        name = flag[2:].replace("-", "_")
        if trains and name in {item.name for cls in parser.classes for item in settings_of(cls)}:
            asked = {name: value[name]}
            made = resolve.resolve("simclr", "cpu", asked, side=32, device=resolve.torch.device("cpu"))
            assert made == resolve.resolve("simclr", "cpu", {}, side=32, device=resolve.torch.device("cpu"))


def test_every_value_of_every_recipe_can_be_typed() -> None:
    from nearfar.training import recipe_table

    for method in methods.METHODS:
        parser = pretrain_parser(["--method", method])
        for flag, *cells in recipe_table.rows(method):
            for cell in {"auto" if flag == "--encoder" else cells[0], *cells} - {"-"}:
                for value in cell.replace("own or ", "").split(" or "):
                    switch = {"yes": [flag], "no": [f"--no-{flag[2:]}"]}.get(value)
                    parser.read(["photos", "--method", method, *(switch or [flag, *value.split()])])


def test_help_ends_with_the_recipes_of_the_method(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["pretrain", "--method", "byol", "--help"])
    listing, table = capsys.readouterr().out.split("set by the recipes for --method byol:\n")
    assert (
        re.search(r"--lr X [^(]*\(by recipe\)", " ".join(listing.split())) and "default muon" not in listing
    )
    assert re.search(r"^  recipe +cpu +cifar-short +cifar-long +imagenet +vit$", table, re.MULTILINE)
    assert re.search(r"^  --optimizer +muon +lars +lars +lars +adamw$", table, re.MULTILINE)
    assert re.search(r"^  --ema +0.9 ", table, re.MULTILINE)
    assert max(map(len, table.splitlines())) <= 110


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["evaluat"], "did you mean evaluate?"),
        (["pretrain", "x", "--metod", "simclr"], "did you mean --method"),
        (["pretrain", "x", "--method", "simcrl"], "did you mean simclr"),
        (["pretrain", "x", "--method=simcrl"], "did you mean simclr"),
        (["pretrain", "x", "--recipe", "cifar-shrt"], "did you mean cifar-short"),
        (["pretrain", "x", "--bacth-size", "3"], "did you mean --batch-size"),
        (["pretrain", "x", "--batch-size", "many"], "--batch-size takes a whole number, not 'many'."),
        (["pretrain", "x", "--batch-size", "1"], "--batch-size is 1; it must be at least 2."),
        (["pretrain", "x", "--batch-size"], "--batch-size needs a value"),
        (["search", "x", "--limit", "many"], "--limit takes a whole number, not 'many'."),
        (["classes", "x"], "--examples FOLDER or by --names FILE; give one"),
        (["pretrain", "x", "--temperature", "nan"], "--temperature must be a finite number"),
        (["pretrain", "x", "--device", "cud"], "did you mean cuda"),
        (["pretrain", "x", "--head", "512", "wide"], "--head takes a whole number, not 'wide'."),
        (
            ["pretrain", "x", "--epochs", "1", "--steps", "5"],
            "--epochs and --steps exclude each other; give one of",
        ),
        (["pretrain", "x", "y"], "unexpected argument 'y'"),
        (["pretrain"], "nearfar pretrain needs DATA, for example: nearfar pretrain"),
        (["embed", "run", "photos"], "nearfar embed needs --out"),
        (
            ["embed", "run", "photos", "--out", "x.npy", "--batch-size", "0"],
            "--batch-size is 0; give 1 or more.",
        ),
        (["evaluate", "run", "-x"], "has no flag -x"),
        (["search", "a.nf", "--id", "-a.png"], "a value that begins with - is written --id=-a.png"),
        (["search", "a.nf", "--json", "-a.png"], "has no flag -a.png; "),
        (["check", "x", "--out", "y"], "nearfar check has no flag --out"),
    ],
)
def test_mistakes_get_one_sentence_and_exit_2(
    words: list[str], says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(words) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("nearfar: ") and err.count("\n") == 1, err
    assert says in err


@pytest.mark.parametrize(
    ("command", "flag", "says"),
    [
        ("pretrain", "--learning-rate", "did you mean --lr?"),
        ("pretrain", "--tau", "did you mean --temperature?"),
        ("pretrain", "--amp", "did you mean --precision?"),
        ("pretrain", "--backbone", "did you mean --encoder?"),
        ("pretrain", "--wd", "did you mean --weight-decay?"),
        ("pretrain", "--bs", "did you mean --batch-size?"),
        ("pretrain", "--img-size", "did you mean --image-size?"),
        ("pretrain", "--num-workers", "did you mean --workers?"),
        ("pretrain", "--gray", "did you mean --grayscale?"),
        ("pretrain", "--looks", "did you mean --health-checks?"),
        ("pretrain", "--accumulate", "did you mean --micro-batch?"),
        ("pretrain", "--gpus", "torchrun --nproc-per-node"),
        ("pretrain", "--resume", "run the same command again to resume"),
        ("embed", "--gpus", "did you mean --device?"),
        ("embed", "-o", "did you mean --out?"),
        ("search", "--top-k", "did you mean --limit?"),
        ("search", "--k", "did you mean --limit?"),
        ("anomalies", "--neighbors", "did you mean --k or --limit?"),
        ("anomalies", "--threshold", "did you mean --fpr?"),
        ("duplicates", "--threshold", "did you mean --min-similarity?"),
        ("classes", "--threshold", "did you mean --reject?"),
        ("clusters", "--clusters", "did you mean --n-clusters?"),
        ("clusters", "--algorithm=kmeans", "did you mean --method?"),
        ("suggest", "--count", "did you mean --limit?"),
        ("methods", "--resume", "choose from --help, --json"),
    ],
)
def test_a_wrong_flag_suggests_by_meaning(
    command: str, flag: str, says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([command, "x", flag, "1"]) == 2
    err = capsys.readouterr().err
    assert (
        err.startswith(f"nearfar: nearfar {command} has no flag {flag.partition('=')[0]}; ") and says in err
    )


def test_the_table_of_synonyms_names_only_flags_that_exist() -> None:
    flags = {flag for make in COMMANDS.values() for flag in make(()).flags}
    assert {meant for several in SYNONYMS.values() for meant in several} <= flags
    assert {command for commands, _ in ADVICE.values() for command in commands} <= set(COMMANDS)


@pytest.mark.parametrize("word", sorted(MEANT))
def test_a_wrong_command_suggests_by_meaning(word: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert word not in COMMANDS and MEANT[word].split()[0].rstrip(",") in COMMANDS
    assert main([word, "photos/"]) == 2
    assert capsys.readouterr().err == f"nearfar: no command {word!r}; did you mean nearfar {MEANT[word]}?\n"
    for flag in re.findall(r"--[a-z-]+", MEANT[word]):
        named = {name for name, make in COMMANDS.items() if name in MEANT[word].split()}
        assert any(flag in COMMANDS[name](()).flags for name in named), flag


def test_the_usage_shows_what_may_be_left_out(capsys: pytest.CaptureFixture[str]) -> None:
    for command, usage in (("embed", "[RUN] DATA"), ("predict", "RUN [DATA]"), ("report", "RUN ...")):
        with pytest.raises(SystemExit):
            main([command, "--help"])
        assert f"usage: nearfar {command} {usage}" in capsys.readouterr().out


def test_a_signature_is_read_as_python_has_it() -> None:
    read = {
        command: read_signature(f"queries.{command.replace('-', '_')}", name)
        for command, name in QUERIES.items()
    }
    for command, name in QUERIES.items():
        true = inspect.signature(getattr(nearfar, name)).parameters
        assert [item.name for item in read[command].parameters] == list(true)
        for item in read[command].parameters:
            default = REQUIRED if (was := true[item.name].default) is inspect.Parameter.empty else was
            assert item.default == default and item.keyword == (
                true[item.name].kind is inspect.Parameter.KEYWORD_ONLY
            )
            assert item.help, f"{name} says nothing of {item.name}"
        assert read[command].example.startswith(f"nearfar {command} ")
    found = {item.name: item for item in read_signature("reports.report", "report").parameters}
    assert found["runs"].many and not found["runs"].keyword and found["runs"].default is REQUIRED
    assert {item.name: item for item in read["duplicates"].parameters}["min_similarity"].default is None


def test_only_what_was_typed_is_passed_on() -> None:
    words = ["x", "--temperature", "0.1", "--head", "64", "32", "--no-cache", "--steps", "3", "--out", "r"]
    assert pretrain_parser(words).read(words) == {
        "data": "x",
        "temperature": 0.1,
        "head": (64, 32),
        "cache": False,
        "steps": 3,
        "out": "r",
    }


def test_no_two_settings_share_a_flag() -> None:
    for method in methods.METHODS:
        flags = pretrain_parser(["--method", method]).flags
        assert len(flags) == len(set(flags))


# A new flag needs its sentence in docs/decisions.md, and its place here.
FLAGS = {
    "check": "--full --json --method --recipe",
    "views": "--out --images --draws --json --method --recipe --modality --image-size --seed --max-pixels",
    "pretrain": "--out --overwrite --like --json --method --recipe",
    "compare": "--methods --seeds --train --test --known --out --json --recipe",
    "sweep": "--minutes-each --budget --trials --train --over --out --json --method --recipe",
    "evaluate": (
        "--train --test --label-level --labels --groups --json --few-labels --retrieval --clusters "
        "--calibration --svm --robustness "
        "--augmented --finetune --full --transfer --known --from-head --seed --device"
    ),
    "finetune": (
        "--train --test --out --task --labels --label-level --groups --overwrite --json --mode --epochs --lr "
        "--batch-size --holdout --share --scratch --no-scratch --seed --device --precision --workers "
        "--max-bad --save-minutes --multi-label --no-multi-label --balance --from-head --teacher "
        "--unlabelled --teacher-temperature"
    ),
    "learning-curve": (
        "--train --test --out --task --shares --seeds --known --labels --label-level --groups --json "
        "--epochs --lr --batch-size --holdout --device --precision --workers --max-bad --save-minutes "
        "--multi-label --no-multi-label --balance --from-head --teacher --unlabelled --teacher-temperature"
    ),
    "predict": (
        "--out --store --sheet --device --batch-size --workers --json --reject --all-classes "
        "--no-all-classes --min-score --yolo --no-yolo --gallery --top"
    ),
    "adopt": "--out --json",
    "combine": "--out --json",
    "report": "--out --data --train --test --bank --names --json",
    "embed": (
        "--out --store --boxes --columns --prune --thumbnail --part --join --on --parts --labels --json "
        "--device --engine --batch-size --workers"
    ),
    "explain": "--out --pair --labels --json",
    "store": "--import --drop --columns --delete --compact --export --where --json",
    "sts": "--dev --texts --seed --json",
    "passages": "--dev --among --seed --json",
    "pairs": "--classes --templates --seed --device --json",
    "search": "--image --text --id --like --dislike --where --limit --run --out --json",
    "label-errors": "--column --where --accepted --limit --seed --out --json",
    "classes": "--examples --names --templates --propagate --reject --save --where --run --out --json",
    "suggest": "--limit --column --method --where --accepted --seed --out --json",
    "anomalies": (
        "--parts --normal --anomalous --method --k --fpr --limit --save --heat-maps --bank --strides --size "
        "--turned --truth --run --seed --where --out --json"
    ),
    "duplicates": "--against --min-similarity --save --where --out --json",
    "clusters": "--method --n-clusters --min-cluster-size --save --seed --where --out --json",
    "curate": "--limit --where --save --seed --out --json",
    "map": "--method --seed --where --out --json",
    "explore": "--run --bank --column --host --port --browser --root-path --hosts",
    "export": "--to --bank --out --json",
    "methods": "--json",
    "demo": "--out --json --minutes --seed",
}
SETTINGS = (
    "--modality --groups --epochs --steps --minutes --batch-size --micro-batch --encoder --stem --weights "
    "--trainable --head-warmup --encoder-rate --rate-decay --start-pull "
    "--freeze-statistics --no-freeze-statistics "
    "--image-size --early-size --early-steps --short-side --optimizer --lr --lr-scaling --momentum "
    "--weight-decay --warmup --precision "
    "--seed --device --views-on --compile --parallel --checkpoint-activations --no-checkpoint-activations "
    "--threads --workers --max-bad --max-pixels --holdout "
    "--health-checks --stop-on-collapse "
    "--no-stop-on-collapse --cache --no-cache --save-minutes --tensorboard --no-tensorboard --crop-min "
    "--crop-max --interpolation --range --percentiles --colour --flip --jitter --brightness --contrast "
    "--saturation --hue --grayscale --blur --solarize"
)


VIEWS = {
    "images": (
        "--crop-min --crop-max --interpolation --range --percentiles --colour --flip --jitter --brightness "
        "--contrast --saturation --hue --grayscale --blur --solarize"
    ),
    "sound": "--rate --mels --trim --depth --level --keep --stretch --shift --warp --tilt --floor --masks",
    "text": "--deletion --tokenizer",
    "pairs": (
        "--crop-min --crop-max --interpolation --range --percentiles --colour --flip --jitter --brightness "
        "--contrast --saturation --hue --grayscale --blur --solarize --caption-tokens --tokenizer"
    ),
}


def own(method: str) -> list[str]:
    """The flags of a method, from its file: what it may have is frozen by docs/decisions.md, see below."""
    items = settings_of(methods.settings(method))
    return [item.flag for item in items] + [f"--no-{item.flag[2:]}" for item in items if item.type is bool]


def test_values_of_flags_decide_no_flags(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("hello")
    words = ["photos", "--out", str(tmp_path)]
    assert "--flip" in pretrain_parser(words).flags
    assert "--flip" not in pretrain_parser([str(tmp_path), "--out", "runs/a"]).flags  # these are texts
    (tmp_path / "captions.csv").write_text("path,caption,group\n")
    grouped = pretrain_parser(["photos", "--groups", str(tmp_path / "captions.csv")]).flags
    assert "--temperature" in grouped and "--caption-tokens" not in grouped
    assert "--ema" in pretrain_parser(["photos", "--method", "simclr", "--method=byol"]).flags


@pytest.mark.parametrize("command", COMMANDS)
def test_the_list_of_flags_is_frozen(command: str) -> None:
    expected = ["-h", "--help", *FLAGS[command].split()]
    if command in ("check", "pretrain"):
        expected += SETTINGS.split() + own("simclr")
    if command == "views":
        expected += [item.flag for item in settings_of(Views)]
    if command == "compare":
        expected += [flag for flag in SETTINGS.split() if flag != "--seed"]
    if command == "sweep":
        expected += [flag for flag in SETTINGS.split() if flag != "--minutes"]
        expected += own("simclr")
    assert sorted(COMMANDS[command](()).flags) == sorted(expected)


def test_the_flags_of_each_kind_of_data_are_frozen() -> None:
    assert list(VIEWS) == list(MODALITIES)
    for kind, flags in VIEWS.items():
        assert [item.flag for item in settings_of(modality(kind).views)] == flags.split()


@pytest.mark.parametrize("method", methods.METHODS)
def test_a_methods_flags_are_the_settings_in_its_file(method: str) -> None:
    expected = ["-h", "--help", *f"{FLAGS['pretrain']} {SETTINGS}".split(), *own(method)]
    if methods.kind(method) == "pairs":  # which alone says that images have captions
        expected += ["--caption-tokens", "--tokenizer"]
    assert sorted(pretrain_parser(["--method", method]).flags) == sorted(expected)


def test_every_flag_has_a_sentence_in_decisions() -> None:
    text = (Path(__file__).parent.parent / "docs" / "decisions.md").read_text()
    flags = {flag for make in COMMANDS.values() for flag in make(()).flags}
    flags |= {flag for kind in MODALITIES for flag in pretrain_parser(["--modality", kind]).flags}
    flags |= {flag for method in methods.METHODS for flag in pretrain_parser(["--method", method]).flags}
    flags -= {"-h", *(flag for flag in flags if flag.startswith("--no-"))}
    assert not [flag for flag in sorted(flags) if f"`{flag}`" not in text]
    about = text[text.index("## SimCLR") : text.index("## The CPU recipe")]
    assert not set(re.findall(r"`(--[a-z-]+)", about)) - flags  # nor a sentence about a flag that is gone


def test_public_names_are_functions_and_shadow_neither_a_room_nor_a_builtin() -> None:
    import builtins

    rooms = {path.stem for path in Path(nearfar.__file__).parent.iterdir() if path.is_dir()}
    assert not rooms & set(nearfar._PUBLIC) and not set(dir(builtins)) & set(nearfar.__all__)
    assert all(callable(getattr(nearfar, name)) for name in nearfar._PUBLIC)
    assert set(nearfar._PUBLIC) < set(nearfar.__all__) == set(dir(nearfar))
    with pytest.raises(AttributeError, match="nosuch"):
        _ = nearfar.nosuch


def test_the_command_that_comes_next_can_be_pasted(tmp_path: Path) -> None:
    found = types.SimpleNamespace(path=tmp_path / "my runs" / "a")
    command = _done("pretrain", found).splitlines()[1].removeprefix("next: ")
    assert shlex.split(command)[2] == str(tmp_path / "my runs" / "a")


@pytest.mark.parametrize(
    "call",
    [
        lambda name: nearfar.open_store(name),
        lambda name: nearfar.predict(name),
        lambda name: nearfar.predict(name, out="a.csv"),
        lambda name: nearfar.embed("a", "b", join=name),
    ],
)
def test_the_command_that_an_error_names_can_be_pasted(call: Callable[[str], Any]) -> None:
    with pytest.raises(nearfar.NearfarError) as caught:
        call("my runs/a.nf")
    assert "my runs/a.nf" in shlex.split(str(caught.value).rpartition("nearfar ")[2])
