"""The web page: uploads, a live stream and enhancement, in English and Chinese.

It knows the service by :class:`pipeline.serving.answers.Service` alone.
"""

import os

# Gradio reads these as it is imported, which only the modules below this one do.
os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"
