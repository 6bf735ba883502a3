// Hands the microphone's samples over, all channels mixed to one, about eight times a second.
"use strict";

class Capture extends AudioWorkletProcessor {
  #samples = new Float32Array(Math.round(sampleRate / 8));
  #count = 0;

  process(inputs) {
    const channels = inputs[0];
    if (!channels.length) return true;
    for (let frame = 0; frame < channels[0].length; frame++) {
      let sum = 0;
      for (const channel of channels) sum += channel[frame];
      this.#samples[this.#count++] = sum / channels.length;
      if (this.#count === this.#samples.length) {
        this.port.postMessage(this.#samples);
        this.#samples = new Float32Array(this.#samples.length);
        this.#count = 0;
      }
    }
    return true;
  }
}

registerProcessor("capture", Capture);
