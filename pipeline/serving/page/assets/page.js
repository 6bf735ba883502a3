// What the page does in the browser beside Gradio: playing from a window, the keys of the
// timeline, pasted files, and the microphone of the live tab. Everything listens at the document,
// since Gradio replaces what it shows.
"use strict";

(() => {
  const PIECE_SECONDS = 0.5;
  const ANSWER_SECONDS = 30;

  // ---- language -------------------------------------------------------------------------------
  function setLanguage() {
    const head = document.querySelector("[data-language]");
    if (!head) return;
    const { language, title } = head.dataset;
    if (document.documentElement.lang !== language) document.documentElement.lang = language;
    if (document.title !== title) document.title = title;
  }
  setLanguage();
  new MutationObserver(setLanguage).observe(document, { childList: true, subtree: true });

  // ---- results --------------------------------------------------------------------------------
  function play(button) {
    const audio = button.closest(".result").querySelector("audio");
    if (!audio) return; // the result says that there is no sound
    const start = Number(button.dataset.start);
    const seek = () => {
      audio.currentTime = start;
      audio.play().catch(() => {}); // a browser may want another gesture: the player stays
    };
    if (audio.readyState >= HTMLMediaElement.HAVE_METADATA) {
      seek();
    } else {
      audio.addEventListener("loadedmetadata", seek, { once: true });
      audio.load();
    }
  }

  function choose(button) {
    const detail = { entry: Number(button.dataset.entry) };
    button.dispatchEvent(new CustomEvent("page-choose", { detail, bubbles: true }));
  }

  function walk(button, key) {
    const all = [...button.closest(".timeline").querySelectorAll("[data-start]")];
    const here = all.indexOf(button);
    const there = {
      ArrowRight: here + 1,
      ArrowDown: here + 1,
      ArrowLeft: here - 1,
      ArrowUp: here - 1,
      Home: 0,
      End: all.length - 1,
    }[key];
    if (there === undefined) return false;
    const next = all[Math.max(0, Math.min(there, all.length - 1))];
    button.tabIndex = -1;
    next.tabIndex = 0;
    next.focus();
    return true;
  }

  function markPlaying(audio) {
    const result = audio.closest(".result");
    if (!result) return;
    for (const button of result.querySelectorAll("[data-start]")) {
      const plays =
        !audio.paused &&
        audio.currentTime >= Number(button.dataset.start) &&
        audio.currentTime < Number(button.dataset.end);
      if (plays) button.setAttribute("aria-current", "true");
      else button.removeAttribute("aria-current");
    }
  }

  document.addEventListener("click", (event) => {
    const target = event.target.closest("[data-start], [data-entry], [data-live]");
    if (!target) return;
    if (target.dataset.start) play(target);
    else if (target.dataset.entry) choose(target);
    else if (target.dataset.live === "start") live.start(target.closest(".live-controls"));
    else live.stop();
  });
  document.addEventListener("keydown", (event) => {
    const button = event.target.closest?.(".timeline [data-start]");
    if (button && walk(button, event.key)) event.preventDefault();
  });
  // Media events do not bubble, so these are caught on their way down.
  for (const name of ["timeupdate", "play", "pause", "seeked"]) {
    document.addEventListener(
      name,
      (event) => {
        if (event.target instanceof HTMLAudioElement) markPlaying(event.target);
      },
      true,
    );
  }
  document.addEventListener(
    "error",
    (event) => {
      if (!(event.target instanceof HTMLAudioElement)) return;
      const gone = event.target.parentElement.querySelector(".sound-gone");
      if (gone) gone.hidden = false;
    },
    true,
  );

  // ---- pasted files ---------------------------------------------------------------------------
  document.addEventListener("paste", (event) => {
    const files = event.clipboardData?.files;
    const input = [...document.querySelectorAll("input[type=file]")].find(
      (one) => one.closest("[role=tabpanel]")?.offsetParent !== null,
    );
    if (!files?.length || !input) return;
    event.preventDefault();
    const given = new DataTransfer();
    for (const file of files) {
      given.items.add(file);
      if (!input.multiple) break;
    }
    input.files = given.files;
    input.dispatchEvent(new Event("change", { bubbles: true }));
  });

  // ---- live -----------------------------------------------------------------------------------
  function base64(samples) {
    const bytes = new Uint8Array(samples.buffer);
    let text = "";
    for (let at = 0; at < bytes.length; at += 0x8000) {
      text += String.fromCharCode(...bytes.subarray(at, at + 0x8000));
    }
    return btoa(text);
  }

  class Live {
    #controls = null; // buttons and status; Gradio redraws only what stands below them
    #context = null;
    #microphone = null;
    #pieces = []; // sound that was not sent yet
    #isFirst = true;
    #isLast = false; // nothing more comes from the microphone
    #waits = null; // the timer of the piece that is not answered yet

    async start(controls) {
      if (this.#context) return;
      this.#controls = controls;
      this.#pieces = [];
      this.#isFirst = true;
      this.#isLast = false;
      this.#say("asking");
      this.#context = new AudioContext();
      try {
        this.#microphone = await navigator.mediaDevices.getUserMedia({
          audio: { echoCancellation: false, noiseSuppression: false, autoGainControl: false },
        });
        await this.#context.audioWorklet.addModule("/page-assets/capture.js");
      } catch {
        this.#end("denied");
        return;
      }
      const source = this.#context.createMediaStreamSource(this.#microphone);
      const capture = new AudioWorkletNode(this.#context, "capture", { numberOfOutputs: 0 });
      capture.port.onmessage = (event) => {
        this.#pieces.push(event.data);
        this.#send();
      };
      source.connect(capture);
      await this.#context.resume();
      this.#say("listening");
    }

    stop() {
      if (!this.#context || this.#isLast) return;
      this.#microphone?.getTracks().forEach((track) => track.stop());
      this.#isLast = true;
      this.#send();
    }

    // One piece at a time, with all that has come: so they stay in order, and none is lost.
    #send() {
      const frames = this.#pieces.reduce((sum, piece) => sum + piece.length, 0);
      const rate = this.#context?.sampleRate;
      if (this.#waits || !this.#context) return;
      if (frames < PIECE_SECONDS * rate && !this.#isLast) return;
      const samples = new Float32Array(frames);
      let at = 0;
      for (const piece of this.#pieces) {
        samples.set(piece, at);
        at += piece.length;
      }
      this.#pieces = [];
      const detail = { samples: base64(samples), rate, first: this.#isFirst, last: this.#isLast };
      this.#isFirst = false;
      this.#waits = setTimeout(() => this.#end("lost"), ANSWER_SECONDS * 1000);
      document
        .querySelector(".live")
        .dispatchEvent(new CustomEvent("page-hear", { detail, bubbles: true }));
    }

    heard(section) {
      if (!this.#waits) return;
      clearTimeout(this.#waits);
      this.#waits = null;
      if (section.dataset.ended === "true") this.#end("stopped");
      else this.#send();
    }

    #end(sentence) {
      clearTimeout(this.#waits);
      this.#waits = null;
      this.#microphone?.getTracks().forEach((track) => track.stop());
      this.#context?.close();
      this.#context = this.#microphone = null;
      this.#say(sentence);
    }

    #say(sentence) {
      const status = this.#controls.querySelector(".live-status");
      status.textContent = status.dataset[sentence];
      this.#controls.classList.toggle("listening", sentence === "listening");
    }
  }

  const live = new Live();
  document.addEventListener("page-heard", (event) => {
    const section = event.target.querySelector(".live");
    if (section) live.heard(section);
  });
})();
