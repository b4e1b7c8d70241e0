/** A small emitter of typed events, the same in Node and in browsers. */

/** What a handler is given, by the name of the event. */
export type EventTable<T> = { [K in keyof T]: unknown[] };

type Handler<A extends unknown[]> = (...args: A) => unknown;
interface Entry {
  readonly handler: Handler<any[]>;
  readonly once: boolean;
}

/**
 * Handlers by name. Unlike Node's own, it throws nothing where nobody listens to `error`; and a handler that throws, or
 * whose promise is rejected, stops nobody: it is told to `handlerFailed`, which reports it.
 */
export class Emitter<T extends EventTable<T>> {
  readonly #handlers = new Map<keyof T, Entry[]>();

  on<K extends keyof T>(event: K, handler: Handler<T[K]>): this {
    return this.#add(event, handler, false);
  }

  addListener<K extends keyof T>(event: K, handler: Handler<T[K]>): this {
    return this.on(event, handler);
  }

  once<K extends keyof T>(event: K, handler: Handler<T[K]>): this {
    return this.#add(event, handler, true);
  }

  off<K extends keyof T>(event: K, handler: Handler<T[K]>): this {
    const entries = this.#handlers.get(event) ?? [];
    const place = entries.findIndex((entry) => entry.handler === handler);
    if (place >= 0) this.#handlers.set(event, entries.filter((_, index) => index !== place));
    return this;
  }

  removeListener<K extends keyof T>(event: K, handler: Handler<T[K]>): this {
    return this.off(event, handler);
  }

  removeAllListeners(event?: keyof T): this {
    if (event === undefined) this.#handlers.clear();
    else this.#handlers.delete(event);
    return this;
  }

  listenerCount(event: keyof T): number {
    return this.#handlers.get(event)?.length ?? 0;
  }

  /** Call the handlers, in the order in which they were added. Whether there were any. */
  emit<K extends keyof T>(event: K, ...args: T[K]): boolean {
    const entries = this.#handlers.get(event);
    if (entries === undefined || entries.length === 0) return false;
    for (const entry of entries) {
      if (entry.once) this.off(event, entry.handler);
      try {
        const result = entry.handler.apply(this, args);
        if (isThenable(result)) result.then(undefined, (error: unknown) => this.handlerFailed(error));
      } catch (error) {
        this.handlerFailed(error);
      }
    }
    return true;
  }

  /** A handler failed. As in an event listener of a browser, it is reported and nothing else. */
  protected handlerFailed(error: unknown): void {
    console.error("a handler failed:", error);
  }

  #add(event: keyof T, handler: Handler<any[]>, once: boolean): this {
    if (typeof handler !== "function") throw new TypeError(`the handler of ${String(event)} must be a function`);
    this.#handlers.set(event, [...(this.#handlers.get(event) ?? []), { handler, once }]);
    return this;
  }
}

function isThenable(value: unknown): value is PromiseLike<unknown> {
  return typeof value === "object" && value !== null && typeof (value as { then?: unknown }).then === "function";
}
