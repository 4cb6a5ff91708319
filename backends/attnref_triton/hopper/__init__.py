"""The Hopper path: dense and packed attention for capability 9.0, in Gluon.

Gluon is Triton's language beneath Triton: a kernel says itself which warps copy and which
multiply. That pays in half precision, from some hundred queries on; everything else runs the
kernels of the package around this one. Nothing here changes what a call means, only which
kernel answers it.

`calls` says which calls take the path, `launch_forward` and `launch_backward` what the kernels
are told, with `schedule` for who does what and `tma` for what is copied. `forward`, `backward`,
`wide` (backward, more than 128 columns) and `entries` (a schedule that only the device can
know) are the kernels; they are imported when first launched, because a Triton may lack Gluon.
"""
