"""An engine for MOVA, the open model that makes picture and sound together; useful without the studio.

>>> from mova.pipeline import MovaPipeline
>>> from mova.spec import ClipSpec
>>> pipeline = MovaPipeline.from_pretrained("MOVA-360p")
>>> clip = pipeline("A gull lands on a pier and cries.", image, spec=ClipSpec(num_inference_steps=25, seed=7))
>>> clip.save("gull.mp4")
"""
