/* A page opened from a file may start no Worker, so search runs in a hidden frame. */
if (location.protocol === "file:") {
  window.IFrameWorker = window.Worker = class extends EventTarget {
    constructor(url) {
      super();
      this.waiting = [];
      this.frame = document.createElement("iframe");
      this.frame.hidden = true;
      document.body.appendChild(this.frame);
      const room = this.frame.contentWindow;
      const load = source => new Promise(loaded => {
        const script = room.document.createElement("script");
        script.src = new URL(source, document.baseURI).href;
        script.onload = loaded;
        room.document.body.appendChild(script);
      });
      room.importScripts = (...sources) => Promise.all(sources.map(load));
      room.postMessage = data => {
        const event = new MessageEvent("message", { data });
        this.dispatchEvent(event);
        if (this.onmessage) this.onmessage(event);
      };
      load(url).then(() => {
        this.give = data => room.dispatchEvent(new MessageEvent("message", { data }));
        this.waiting.forEach(this.give);
      });
    }
    postMessage(data) {
      if (this.give) this.give(data);
      else this.waiting.push(data);
    }
    terminate() {
      this.frame.remove();
    }
  };
}
