"""The kernel's suite for layers, for each form and source."""

from luna_kernel.testing import LayerConformance


class TestLowRank(LayerConformance):
    component = ("modulator", "hyper_adapter")
    config = {"width": 4, "rank": 3, "hidden": 5}
    conditions = {"domain": 4}


class TestBases(LayerConformance):
    component = ("modulator", "hyper_adapter")
    config = {"width": 4, "form": "bases", "condition": "emotion"}
    conditions = {"emotion": 4}


class TestFilm(LayerConformance):
    component = ("modulator", "hyper_adapter")
    config = {"width": 4, "form": "film", "condition": "persona"}
    conditions = {"persona": 4}


class TestText(LayerConformance):
    component = ("modulator", "hyper_adapter")
    config = {"source": "text", "width": 4, "rank": 3, "hidden": 5}


class TestTextFilm(LayerConformance):
    component = ("modulator", "hyper_adapter")
    config = {"source": "text", "width": 4, "form": "film"}


class TestDomain(LayerConformance):
    component = ("modulator", "domain_adapter")
    config = {"domains": 4, "entropy_weight": 0.01}
    conditions = {"domain": 4}


class TestDomainLowRank(LayerConformance):
    component = ("modulator", "domain_adapter")
    config = {"domains": 4, "form": "low_rank", "rank": 3, "hidden": 5}
    conditions = {"domain": 4}
