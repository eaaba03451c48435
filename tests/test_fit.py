"""What the engine makes of a stage that a method describes, and what it refuses."""

import pytest
import torch
from conftest import begin_training, tiny_learner

SETTINGS = {"init_epoch": 1, "epochs": 1, "init_milestones": [], "milestones": [], "batch_size": 8}


def started(**settings):
    """Return a learner in its second task, and the training that begins there."""
    learner = tiny_learner(convnet_type="conv2", **SETTINGS, **settings)
    learner.begin_task()
    learner.begin_task()
    return learner, begin_training(learner)


def test_a_part_of_the_loss_without_a_weight_is_refused():
    learner, _ = started(model_name="replay")
    losses = learner.losses
    learner.losses = lambda *batch: {**losses(*batch), "kd": torch.zeros(())}
    with pytest.raises(ValueError, match=r"'train' has losses clf, kd, but weights for clf$"):
        learner.train_task()


def test_a_weight_for_what_is_no_part_of_the_loss_is_refused():
    learner, _ = started(model_name="replay")
    with pytest.raises(ValueError, match="kd is not among the method's loss_parts"):
        learner.fit("train", learner.losses, learner.schedule(), weights={"clf": 1.0, "kd": 1.0})


@pytest.mark.parametrize("trains", ["classifier", "nothing"])
def test_only_what_trains_gets_gradients_and_moves(trains):
    learner, _ = started(model_name="replay")
    learner.network.freeze()
    scale = torch.nn.Parameter(torch.ones(()))
    before = {name: value.clone() for name, value in learner.network.named_parameters()}
    chosen = list(learner.network.classifier.parameters()) if trains == "classifier" else []

    def losses(outputs, images, targets):
        return {"clf": torch.nn.functional.cross_entropy(scale * outputs["logits"], targets)}

    assert learner.fit("train", losses, learner.schedule(), trains=[*chosen, scale])
    assert scale.item() != 1
    for name, parameter in learner.network.named_parameters():
        moves = trains == "classifier" and name.startswith("classifier")
        assert (parameter.grad is not None) == moves, name
        assert torch.equal(parameter, before[name]) != moves, name


@pytest.mark.parametrize("method", ["memo", "der"])
def test_the_weight_of_the_auxiliary_loss_is_the_setting_s(method):
    for alpha in (1.0, 0.25):
        _, training = started(model_name=method, alpha_aux=alpha)
        assert training.stage.weights == {"clf": 1.0, "aux": alpha}
