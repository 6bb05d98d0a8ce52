"""The loop's own arithmetic and the layers worth fusing: Triton kernels, each beside its plain reference.

The references run anywhere. Triton is imported when a kernel is first launched; see ``launch.py``.
"""
