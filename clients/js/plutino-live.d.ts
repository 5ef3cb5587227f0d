export type Row = Record<string, unknown>;

export interface Change {
  /** All rows after the change. */
  rows: Map<string, Row>;
  /** Whether all rows were replaced. */
  snapshot: boolean;
  insert: Row[];
  update: Row[];
  /** Objects of the key columns. */
  delete: Row[];
  /** The view's time, ms since the epoch. */
  ts: number;
}

export interface LiveError {
  code: string;
  message: string;
  /** Whether the client asks again by itself. */
  retry: boolean;
}

export interface LiveOptions {
  token?: string | (() => string | Promise<string>);
  onState?: (state: "connecting" | "open" | "closed", reason?: string) => void;
  WebSocket?: unknown;
}

export interface SubscribeOptions {
  params?: Record<string, unknown>;
  /** At most one delta in so many ms. */
  every?: number;
  onChange?: (change: Change) => void;
  onError?: (error: LiveError) => void;
  onEnd?: (why: string) => void;
}

export declare class PlutinoLive {
  constructor(url: string, options?: LiveOptions);
  subscribe(view: string, options?: SubscribeOptions): Subscription;
  close(): void;
}

export declare class Subscription {
  private constructor();
  readonly view: string;
  readonly params: Record<string, unknown>;
  readonly every: number;
  rows: Map<string, Row>;
  key: string[];
  columns: { name: string; type: string }[];
  order: [string, "asc" | "desc"][];
  ready: boolean;
  ts: number;
  keyOf(row: Row): string;
  close(): void;
}

export declare function compareValues(a: unknown, b: unknown): number;
