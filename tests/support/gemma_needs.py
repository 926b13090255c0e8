"""What a placement is asked to find room for in the tests: Gemma-2-2B's shape."""

from layerscope.planning.needs import Needs

GIB = 1 << 30
GEMMA_2B = Needs(
    model=5 * GIB,
    sae_by_layer=dict.fromkeys(range(26), 151_000_000),
    d_model=2304,
    gemma_work=2 * GIB,
    encoder_work=GIB // 2,
)
