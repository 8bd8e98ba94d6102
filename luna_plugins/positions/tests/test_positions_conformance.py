"""Every position scheme passes the suite, inside the kernel's attention."""

from luna_kernel.testing import LayerConformance


class TestAlibi(LayerConformance):
    component = ("position", "alibi")


class TestBucketed(LayerConformance):
    component = ("position", "t5")
    config = {"num_buckets": 8, "max_distance": 20}


class TestRelational(LayerConformance):
    component = ("position", "relational")


class TestRelationalWithoutRope(LayerConformance):
    component = ("position", "relational")
    config = {"rope": None, "num_buckets": 2, "max_turns": 3, "speakers": [list(range(8)), [8, -1]]}


class TestNone(LayerConformance):
    component = ("position", "none")
