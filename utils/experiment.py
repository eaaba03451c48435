"""The run: every class order asked for, task by task, from the data to the files under logs/.

One class order (`seed`) is one run with a folder of its own. Everything a user sees on the terminal
is said here or by the progress bar of a task; everything a run leaves is written by the logbook.
"""

import logging
import math
import statistics
import time

import torch
import torch.nn.functional as F

from models import METHODS
from utils.augment import EvalTransform, TrainTransform
from utils.budget import Cost, run_table
from utils.checkpoint import save_task_checkpoint
from utils.config import Config
from utils.data import ImageArrays, load_dataset
from utils.data_manager import DataManager, make_class_order
from utils.devices import resolve_devices
from utils.inc_net import AdaptiveNet
from utils.loader import ResidentLoader
from utils.logbook import (
    Logbook,
    duration,
    final_table,
    provenance,
    require_tensorboard,
    run_folder,
    setup_console,
    task_line,
)
from utils.metrics import Metrics
from utils.published import find as find_published

log = logging.getLogger("memo")


def run(config: Config) -> list[Metrics]:
    """Run the experiment once for every class order in `config.seed`.

    Returns:
        the metrics of each run, in the order of the seeds.

    Raises:
        DataError: the data set is missing or damaged.
        CheckpointError: the file to start from cannot be used.
        TensorBoardError: asked for, but not installed.
        TrainingError: training cannot go on.
    """
    setup_console()
    if config.tensorboard:
        require_tensorboard()
    devices, warning = resolve_devices(config.device)
    data = load_dataset(
        config.dataset,
        config.data_dir,
        synthetic_classes=config.synthetic_classes,
        synthetic_train_per_class=config.synthetic_train_per_class,
        synthetic_test_per_class=config.synthetic_test_per_class,
    )
    if devices[0].type == "cpu" and config.device != [-1]:
        expected = f"the schedule will take about {duration(estimate_seconds(config, data))} there"
        log.warning("%s; %s", warning or "no GPU on this machine: using the CPU", expected)
    elif warning:
        log.warning("%s", warning)
    results = [run_class_order(config, data, devices, seed) for seed in config.seed]
    if len(results) > 1:
        _report_seeds(config.seed, results)
    return results


def run_class_order(
    config: Config, data: ImageArrays, devices: list[torch.device], seed: int
) -> Metrics:
    """Run all tasks of one class order, writing its files after every task."""
    start = time.time()
    folder = run_folder(
        log_dir=config.log_dir,
        prefix=config.prefix,
        dataset=config.dataset,
        model_name=config.model_name,
        convnet_type=config.convnet_type,
        init_cls=config.init_cls,
        increment=config.increment,
        memory_size=config.memory_size,
        seed=seed,
        start_time=start,
        debug=config.debug,
    )
    order = config.class_order or make_class_order(data.num_classes, seed, config.shuffle)
    tasks = DataManager(
        data.train_labels, data.test_labels, order, config.init_cls, config.increment
    )
    kept = f"{config.memory_per_class} a class" if config.fixed_memory else config.memory_size
    setting = (
        f"{config.model_name}, {config.dataset} in {tasks.num_tasks} tasks of "
        f"{_sizes(tasks.task_sizes)} classes, {kept} exemplars, {config.convnet_type}, "
        f"class order {'given' if config.class_order else seed}"
    )
    published = find_published(config)
    with Logbook(
        folder,
        setting,
        published=published.curve if published else None,
        tensorboard=config.tensorboard,
    ) as logbook:
        logbook.write_config({**config.to_dict(), "seed": [seed], **provenance(devices)})
        log.info("%s", setting)
        log.info("on %s; logs in %s", ", ".join(str(device) for device in devices), folder)
        sizes = tasks.task_sizes[: config.stop_after_task or tasks.num_tasks]
        budget = config.memory_size
        if config.fixed_memory:
            budget = config.memory_per_class * sum(sizes)
        cost = Cost.after(config.model_name, config.dataset, config.convnet_type, sizes, budget)
        log.info("%s", run_table(cost, len(sizes)))
        torch.manual_seed(config.torch_seed)
        train_data, test_data = _make_loaders(data, tasks, devices[0])
        learner = METHODS[config.model_name](config, tasks, train_data, test_data, devices)
        learner.after_epoch = lambda: logbook.write_epochs(learner.epochs)
        metrics = Metrics(tasks.task_sizes)
        exemplars: list[int] = []
        seconds: list[float] = []
        last_task = config.stop_after_task or tasks.num_tasks
        for task in range(last_task):
            task_start = time.perf_counter()
            learner.begin_task()
            learner.train_task()
            learner.end_task()
            predictions = learner.evaluate()
            metrics.append(predictions.cnn, predictions.nme, predictions.targets)
            exemplars.append(len(learner.memory))
            seconds.append(time.perf_counter() - task_start)
            save_task_checkpoint(
                folder / f"task_{task + 1}.pt",
                {
                    "convnet_type": config.convnet_type,
                    "task": task + 1,
                    "task_sizes": tasks.task_sizes,
                    "class_order": tasks.class_order,
                    "network": learner.network.state_dict(),
                    "exemplars": learner.memory.state_dict(),
                    "test_accuracy": metrics.tasks[-1].cnn_top1,
                },
            )
            logbook.write_task(
                metrics,
                exemplars,
                seconds,
                predictions,
                tasks.class_order,
                task + 1 == last_task,
                epochs=learner.epochs,
                weight_norms=learner.weight_norms,
                blocks=learner.blocks.rows if learner.blocks else (),
            )
            log.info(
                "%s", task_line(metrics.tasks[-1], tasks.num_tasks, exemplars[-1], seconds[-1])
            )
        log.info("%s", final_table(metrics, exemplars, seconds))
    return metrics


def estimate_seconds(config: Config, data: ImageArrays) -> float:
    """Estimate the time that training all tasks of one class order takes on this CPU, in seconds.

    Times a training step of the first task's network and one of the second's: each further task
    adds one more frozen block, which costs what the second one's did.
    """
    labels = DataManager(
        data.train_labels,
        data.test_labels,
        config.class_order or list(range(data.num_classes)),
        config.init_cls,
        config.increment,
    )
    network = AdaptiveNet(config.convnet_type)
    images = torch.zeros(config.batch_size, *data.train_images.shape[1:])
    step_times = []
    for new_classes in labels.task_sizes[:2]:
        network.grow(new_classes)
        first = len(step_times) == 0
        network.freeze(
            generalized=not (first or config.train_base),
            old_specialized=not (first or config.train_adaptive),
        )
        times = []
        for _ in range(3):
            begin = time.perf_counter()
            logits = network(images)["logits"]
            F.cross_entropy(logits, torch.zeros(len(images), dtype=torch.int64)).backward()
            times.append(time.perf_counter() - begin)
        step_times.append(min(times))
    per_block = step_times[1] - step_times[0] if len(step_times) > 1 else 0.0
    seconds = 0.0
    for task in range(config.stop_after_task or labels.num_tasks):
        epochs = config.init_epoch if task == 0 else config.epochs
        known = labels.known_classes(task)
        stored = known * config.memory_per_class if config.fixed_memory else config.memory_size
        new = len(labels.train_indices(known, labels.seen_classes(task)))
        steps = math.ceil((new + (stored if task else 0)) / config.batch_size)
        seconds += epochs * steps * (step_times[0] + task * max(per_block, 0.0))
    return seconds


def _make_loaders(
    data: ImageArrays, tasks: DataManager, device: torch.device
) -> tuple[ResidentLoader, ResidentLoader]:
    """Return the training and the test images on a device, with the labels of the class order."""
    train, test = TrainTransform(data.mean, data.std), EvalTransform(data.mean, data.std)
    return (
        ResidentLoader(data.train_images, tasks.train_labels, train, test, device),
        ResidentLoader(data.test_images, tasks.test_labels, train, test, device),
    )


def _report_seeds(seeds: list[int], results: list[Metrics]) -> None:
    """Say mean and standard deviation over several class orders."""
    for name, values in (
        ("average accuracy", [metrics.average_accuracy for metrics in results]),
        ("last accuracy", [metrics.last_accuracy for metrics in results]),
    ):
        log.info(
            "%s of the classifier over %d class orders: %.2f ± %.2f %% (standard deviation)",
            name,
            len(seeds),
            statistics.mean(values),
            statistics.stdev(values),
        )


def _sizes(task_sizes: list[int]) -> str:
    """Return "10" for equal tasks, else "50 + 10 + 10" (shortened when long)."""
    if len(set(task_sizes)) == 1:
        return str(task_sizes[0])
    shown = [str(size) for size in task_sizes]
    return " + ".join(shown if len(shown) <= 6 else [*shown[:3], "...", shown[-1]])
