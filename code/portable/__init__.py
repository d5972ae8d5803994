"""A finished run that leaves the house: its network as ONNX or by torch.export, what to do before and after it, and a check of both.

May import: `evaluation` and everything that it may import, `prediction`.
"""
