"""The web page: uploads, a live stream and enhancement, in English and Chinese.

It knows the service by :class:`pipeline.serving.answers.Service` alone.
"""

import os

# Gradio reads these as it is imported, which only the modules below this one do.
os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"
# It would summarise its last 10,000 events with pandas after every one, for a page that is off.
os.environ["GRADIO_ANALYTICS_MAX_EVENTS"] = "1"
os.environ["GRADIO_ANALYTICS_CACHE_FREQUENCY"] = str(1 << 62)
