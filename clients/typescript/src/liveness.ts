/**
 * Whether sockets and timers keep a Node process alive: only while somebody waits for something. An idle client does
 * not, so that a program ends by itself when its work is done.
 */
import type { Refable } from "./platform.js";

export class Liveness {
  #holds = 0;
  readonly #attached = new Set<Refable>();

  get held(): boolean {
    return this.#holds > 0;
  }

  /** Somebody waits. */
  hold(): void {
    this.#holds += 1;
    if (this.#holds === 1) for (const one of this.#attached) one.ref();
  }

  /** He does not wait any more. */
  release(): void {
    this.#holds -= 1;
    if (this.#holds === 0) for (const one of this.#attached) one.unref();
  }

  attach(one: Refable): void {
    this.#attached.add(one);
    if (this.held) one.ref();
    else one.unref();
  }

  detach(one: Refable): void {
    this.#attached.delete(one);
  }

  /** A timer that keeps the process alive while somebody waits. Returns what cancels it. */
  timer(ms: number, due: () => void): () => void {
    const timer = setTimeout(() => {
      this.detach(refable);
      due();
    }, ms);
    const refable = asRefable(timer);
    this.attach(refable);
    return () => {
      clearTimeout(timer);
      this.detach(refable);
    };
  }

  /** Wait; sooner where the signal is aborted. Does not reject. */
  sleep(ms: number, signal: AbortSignal): Promise<void> {
    return new Promise((resolve) => {
      if (signal.aborted) return resolve();
      const done = () => {
        cancel();
        signal.removeEventListener("abort", done);
        resolve();
      };
      const cancel = this.timer(ms, done);
      signal.addEventListener("abort", done);
    });
  }
}

const NOTHING: Refable = { ref() {}, unref() {} };

/** A timer is an object in Node and a number in browsers, which have no such thing as staying alive. */
function asRefable(timer: unknown): Refable {
  return typeof timer === "object" && timer !== null && "ref" in timer ? (timer as Refable) : NOTHING;
}
