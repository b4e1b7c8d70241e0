/** The client of fabstird: `connect`, and all that it gives. */
export { Client, connect } from "./client.js";
export type {
  ClientEvents, ConnectOptions, OpenStreamOptions, RequestAnswer, RequestOptions,
} from "./client.js";
export type { Bytes } from "./bytes.js";
export { Emitter } from "./emitter.js";
export type { EventTable } from "./emitter.js";
export {
  BadAnswer, ClientTimeout, Closed, ConnectionLost, DaemonUnreachable, FabstirError, hasCode, InvalidConfig, isFabstirError,
  RpcError, StreamReset,
} from "./errors.js";
export type {
  AnyErrorCode, AnyFabstirError, ClientErrorDataByCode, DataByCode, StreamOutcome,
} from "./errors.js";
export { EventStream } from "./events.js";
export type { EventOf, EventsOptions, Lagged, Snapshot } from "./events.js";
export * from "./generated/api.js";
export { Handling } from "./handling.js";
export type {
  HandleOptions, IncomingRequest, RequestHandler, RequestHandleOptions, StreamHandler, StreamHandleOptions,
} from "./handling.js";
export { Stream } from "./stream.js";
export type { NodeDuplex } from "./stream.js";
export { VERSION } from "./version.js";
