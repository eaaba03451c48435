"""The methods' short runs that are kept: README's table, and what must be true of them."""

from benchmarks.methods import curves, markdown, runs_of
from conftest import REPOSITORY

SHORT = REPOSITORY / "logs" / "published" / "short"
KEPT = SHORT / "methods", SHORT / "float32" / "seed1993_torch1"  # the other methods, MEMO


def test_readme_has_the_table_of_the_runs_kept():
    readme = (REPOSITORY / "README.md").read_text()
    (table,) = readme.split("<!-- short methods -->\n")[1].split("<!-- end short methods -->")[:1]
    assert table.strip() == markdown(KEPT).strip()


def test_every_method_learns_its_new_classes_and_exemplars_keep_the_old_ones():
    last = {name: curves(run)[-1] for name, run in runs_of(KEPT).items()}
    new, old = (
        {name: float(row[key]) for name, row in last.items()} for key in ("new_top1", "old_top1")
    )
    assert {"finetune", "replay", "der", "memo"} <= last.keys()
    # Chance is 1 of 30 classes.
    assert min(new.values()) > 25
    assert all(old[name] > 2 * old["finetune"] for name in old.keys() - {"finetune"})


def test_they_had_one_schedule_and_one_first_task_but_for_memo():
    runs = runs_of(KEPT).values()
    keys = (
        "init_cls",
        "increment",
        "epochs",
        "milestones",
        "stop_after_task",
        "seed",
        "torch_seed",
    )
    assert len({str([run.config[key] for key in keys]) for run in runs}) == 1
    read = [run for run in runs if run.method.name != "memo"]
    assert len({curves(run)[0]["cnn_top1"] for run in read}) == 1
