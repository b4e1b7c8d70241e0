/**
 * The numbered log as an async iterable that outlives its connection and the daemon's run.
 *
 * It reads a connection of its own, so that a reader who is slow slows down nobody: what he does not take is left in
 * the daemon, which tells by `lagged` what it could not keep for him.
 */
import { Connection } from "./connection.js";
import { Closed, ConnectionLost, type FabstirError, isFabstirError } from "./errors.js";
import { EVENT_TYPES, type Event, type EventType, type SubscribeResult } from "./generated/api.js";
import { Liveness } from "./liveness.js";
import type { Target } from "./platform.js";

/** ms without a word, three heartbeats, after which a connection counts as dead. */
const SILENCE = 45_000;
const FIRST_DELAY = 50;
const LAST_DELAY = 2_000;
/** Items that may wait for a reader; then no more are read from the daemon. */
const MOST_WAITING = 1024;
const FEW_WAITING = 256;

/** Stands where entries are missing: the log has forgotten them, or they were another run's (`missed` is then null). */
export interface Lagged {
  readonly type: "lagged";
  readonly missed: number | null;
  /** The number of the entry that comes next. */
  readonly resume: number;
}

/** The event of one type. */
export type EventOf<T extends EventType> = Extract<Event, { type: T }>;

export interface EventsOptions<T extends EventType = EventType> {
  /** Only these; all where they are left out. */
  types?: readonly T[] | undefined;
  /** Begin after the event of this number, of the run `epoch`; with what happens from now on where it is left out. */
  after?: number | undefined;
  epoch?: string | undefined;
  /** Ends the iteration. */
  signal?: AbortSignal | undefined;
}

/** How things stood when the newest subscription began. */
export type Snapshot = SubscribeResult;

type Item = Event | Lagged;

interface Waiter {
  resolve(result: IteratorResult<Item, undefined>): void;
  reject(error: unknown): void;
}

/** Told to whoever made the stream, besides its reader. */
export interface EventStreamHooks {
  subscribed?(snapshot: Snapshot): void;
  /** The connection was lost; another one is being made. */
  lost?(error: FabstirError): void;
  /** Nobody will read on. */
  ended?(stream: { close(): void }): void;
}

/**
 * Subscribes at once. An error of the first attempt, and any that another attempt will not mend, is thrown by the
 * iteration. It keeps the process alive while somebody waits for the next event.
 */
export class EventStream<T extends EventType = EventType> implements AsyncIterableIterator<EventOf<T> | Lagged> {
  readonly #target: Target;
  readonly #types: readonly T[] | undefined;
  readonly #hooks: EventStreamHooks;
  readonly #liveness = new Liveness();
  readonly #ending = new AbortController();
  readonly #queue: Item[] = [];
  readonly #waiters: Waiter[] = [];
  readonly #first: Promise<Snapshot>;
  #connection: Connection | undefined;
  #snapshot: Snapshot | undefined;
  #epoch: string | undefined;
  #after: number | undefined;
  #paused = false;
  #heard = 0;
  #wakeRun: (() => void) | undefined;
  #failure: unknown;
  #over = false;

  /** Made by `Client.events`. */
  constructor(target: Target, options: EventsOptions<T>, hooks: EventStreamHooks = {}) {
    for (const type of options.types ?? []) {
      if (!(EVENT_TYPES as readonly string[]).includes(type)) throw new TypeError(`there are no events of type ${type}`);
    }
    this.#target = target;
    this.#types = options.types;
    this.#after = options.after;
    this.#epoch = options.epoch;
    this.#hooks = hooks;
    this.#first = this.#subscribe();
    void this.#run();
    const { signal } = options;
    if (signal?.aborted) this.close();
    signal?.addEventListener("abort", () => this.close(), { signal: this.#ending.signal });
  }

  /** Settles when the subscription stands for the first time: status and peers of that instant. */
  ready(): Promise<Snapshot> {
    this.#liveness.hold();
    return this.#first.finally(() => this.#liveness.release());
  }

  /** Status and peers as the newest subscription found them. */
  get snapshot(): Snapshot | undefined {
    return this.#snapshot;
  }

  /** Whether nothing will come any more. */
  get over(): boolean {
    return this.#over;
  }

  [Symbol.asyncIterator](): this {
    return this;
  }

  next(): Promise<IteratorResult<EventOf<T> | Lagged, undefined>> {
    return new Promise((resolve, reject) => {
      const item = this.#queue.shift();
      if (item !== undefined) {
        this.#taken();
        return resolve({ done: false, value: item as EventOf<T> | Lagged });
      }
      if (this.#over) return this.#finish({ resolve, reject } as Waiter);
      this.#liveness.hold();
      this.#waiters.push({ resolve, reject } as Waiter);
    });
  }

  /** What has come and waits to be taken. */
  drain(): (EventOf<T> | Lagged)[] {
    const items = this.#queue.splice(0) as (EventOf<T> | Lagged)[];
    this.#taken();
    return items;
  }

  /** Ends the iteration, as `break` does. */
  async return(): Promise<IteratorReturnResult<undefined>> {
    this.close();
    return { done: true, value: undefined };
  }

  /** Ends the iteration; events that were not taken are dropped. */
  close(): void {
    this.#queue.length = 0;
    this.#end();
  }

  // ------------------------------------------------------------------------------------------------------------------

  async #run(): Promise<void> {
    try {
      await this.#first;
      while (!this.#over) {
        await this.#lostOrSilent();
        await this.#resume();
      }
    } catch (error) {
      this.#failure = error;
      this.#end();
    }
  }

  /** Connect again and again, until it works or never will. */
  async #resume(): Promise<void> {
    let delay = FIRST_DELAY;
    while (!this.#over) {
      try {
        await this.#subscribe();
        return;
      } catch (error) {
        if (this.#over) return;
        const again = isFabstirError(error) && (error.retryable || error.code === "BAD_ANSWER");
        if (!again) throw error;
      }
      await this.#liveness.sleep(delay, this.#ending.signal);
      delay = Math.min(delay * 2, LAST_DELAY);
    }
  }

  async #subscribe(): Promise<Snapshot> {
    const early: Item[] = [];
    let stands = false;
    let lost: ((error: FabstirError) => void) | undefined;
    const connection = await Connection.open(this.#target, this.#liveness, {
      notified: (method, params) => {
        this.#heard = Date.now();
        const item = asItem(method, params);
        if (method === "heartbeat" && stands) this.#passed(params["head"]);
        if (item === undefined) return;
        if (stands) this.#arrived(item);
        else early.push(item);
      },
      closed: (error) => lost?.(error),
    });
    if (this.#over) {
      connection.close();
      throw new Closed();
    }
    const run = connection.greeting.epoch;
    let gap: Lagged | undefined;
    if (this.#epoch !== undefined && run !== undefined && run !== this.#epoch) {
      // What happened between the start of the new run and our coming back is not lost; only the end of the old one.
      this.#epoch = run;
      this.#after = 0;
      gap = { type: "lagged", missed: null, resume: 1 };
    }
    try {
      const params = { types: this.#types, after: this.#after, epoch: this.#epoch };
      await connection.request("subscribe", params, {}, (result) => {
        // Within the turn in which the answer came: what follows it comes later.
        const snapshot = result as Snapshot;
        this.#snapshot = snapshot;
        this.#epoch = snapshot.epoch;
        this.#after ??= snapshot.head;
        this.#connection = connection;
        this.#heard = Date.now();
        stands = true;
        this.#hooks.subscribed?.(snapshot);
        if (gap !== undefined) this.#arrived(gap);
        for (const item of early) this.#arrived(item);
      });
    } catch (error) {
      connection.close();
      throw error;
    }
    lost = (error) => this.#dropped(connection, error);
    if (connection.closed) lost(new ConnectionLost("the connection to the daemon was closed"));
    return this.#snapshot as Snapshot;
  }

  #dropped(connection: Connection, error: FabstirError): void {
    if (this.#connection !== connection) return;
    this.#connection = undefined;
    this.#hooks.lost?.(error);
    this.#wakeRun?.();
  }

  /** Settles when there is no connection any more, with none that has fallen silent left. */
  async #lostOrSilent(): Promise<void> {
    while (this.#connection !== undefined && !this.#over) {
      await new Promise<void>((resolve) => {
        const cancel = this.#liveness.timer(SILENCE / 3, resolve);
        this.#wakeRun = () => {
          cancel();
          resolve();
        };
      });
      this.#wakeRun = undefined;
      const silent = !this.#paused && Date.now() - this.#heard > SILENCE;
      if (silent && this.#connection !== undefined) {
        const connection: Connection = this.#connection;
        connection.close();
        this.#dropped(connection, new ConnectionLost(`no word from the daemon for ${SILENCE / 1000} s`));
      }
    }
    // A reader in a browser who is behind: go on where the queue ends, when there is room.
    while (this.#paused && this.#queue.length > FEW_WAITING && !this.#over) {
      await new Promise<void>((resolve) => (this.#wakeRun = resolve));
    }
    this.#wakeRun = undefined;
    this.#paused = false;
  }

  #arrived(item: Item): void {
    if (item.type === "lagged") this.#after = Math.max(0, item.resume - 1);
    else [this.#epoch, this.#after] = [item.epoch, item.seq];
    const waiter = this.#waiters.shift();
    if (waiter !== undefined) {
      this.#liveness.release();
      waiter.resolve({ done: false, value: item });
      return;
    }
    this.#queue.push(item);
    if (this.#queue.length < MOST_WAITING || this.#paused || this.#connection === undefined) return;
    this.#paused = true;
    if (this.#connection.pause()) return;
    const connection = this.#connection;
    this.#connection = undefined;
    connection.close();
    this.#wakeRun?.();
  }

  /** The reader has taken one. */
  #taken(): void {
    if (!this.#paused || this.#queue.length > FEW_WAITING) return;
    if (this.#connection === undefined) return this.#wakeRun?.();
    this.#paused = false;
    this.#heard = Date.now();
    this.#connection.resume();
  }

  /** Entries that the filter held back are behind us too. */
  #passed(head: unknown): void {
    if (typeof head === "number") this.#after = Math.max(this.#after ?? 0, head);
  }

  #end(): void {
    if (this.#over) return;
    this.#over = true;
    this.#ending.abort();
    this.#connection?.close();
    this.#connection = undefined;
    this.#wakeRun?.();
    for (const waiter of this.#waiters.splice(0)) {
      this.#liveness.release();
      this.#finish(waiter);
    }
    this.#hooks.ended?.(this);
  }

  /** What a reader gets behind the last item: the error, once, then the end. */
  #finish(waiter: Waiter): void {
    const failure = this.#failure;
    this.#failure = undefined;
    if (failure !== undefined) waiter.reject(failure);
    else waiter.resolve({ done: true, value: undefined });
  }
}

function asItem(method: string, params: Record<string, unknown>): Item | undefined {
  if (method === "event") {
    const { epoch, seq, time, type, data } = params;
    if (typeof epoch !== "string" || typeof seq !== "number" || typeof type !== "string") return undefined;
    return { epoch, seq, time, type, data } as Event;
  }
  if (method === "lagged" && typeof params["resume"] === "number") {
    const missed = params["missed"];
    return { type: "lagged", missed: typeof missed === "number" ? missed : null, resume: params["resume"] };
  }
  return undefined;
}
