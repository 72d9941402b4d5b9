"""The gateway: `comfy-lock/gateway/<key>/<ComfyUI path>`, HTTP and WebSocket.

Any ComfyUI client can be given this as its ComfyUI address. It reaches the ComfyServer that the
key's holder has locked, and only the holder's own part of it (R4, R5, R7, R10).
"""
