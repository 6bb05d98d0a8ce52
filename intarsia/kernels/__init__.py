"""The loop's own arithmetic and the layers worth fusing: Triton kernels, each beside its plain reference.

``geglu.py`` has reference, wrapper and checks, ``geglu_triton.py`` the kernel; so it is for all of them. References run
anywhere. Triton is imported when a kernel is first launched; see ``launch.py``.
"""
