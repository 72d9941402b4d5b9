-- The tables as version 1 of the store made them in a SQLite file.
PRAGMA journal_mode=WAL;
CREATE TABLE meta (
	id INTEGER NOT NULL, 
	rev BIGINT NOT NULL, 
	schema_version INTEGER NOT NULL, 
	PRIMARY KEY (id)
);
CREATE TABLE nodes (
	node_id TEXT NOT NULL, 
	boot_id TEXT NOT NULL, 
	expires_at_us BIGINT NOT NULL, 
	PRIMARY KEY (node_id)
);
CREATE TABLE locks (
	fence BIGINT NOT NULL, 
	comfy_id TEXT NOT NULL, 
	holder_id TEXT NOT NULL, 
	node_id TEXT NOT NULL, 
	mode TEXT NOT NULL, 
	state TEXT NOT NULL, 
	name TEXT NOT NULL, 
	granted_at FLOAT NOT NULL, 
	ended_at FLOAT, 
	ended_by TEXT, 
	PRIMARY KEY (fence)
);
CREATE INDEX locks_by_comfy ON locks (comfy_id, state);
CREATE UNIQUE INDEX one_lock_per_holder ON locks (holder_id) WHERE state = 'held';
CREATE TABLE tasks (
	task_id TEXT NOT NULL, 
	holder_id TEXT NOT NULL, 
	node_id TEXT NOT NULL, 
	comfy_id TEXT NOT NULL, 
	name TEXT NOT NULL, 
	lock JSON NOT NULL, 
	state TEXT NOT NULL, 
	pending INTEGER DEFAULT 1 NOT NULL, 
	cancel_requested INTEGER DEFAULT 0 NOT NULL, 
	created_at FLOAT NOT NULL, 
	started_at FLOAT, 
	ended_at FLOAT, 
	reason TEXT, 
	outputs JSON NOT NULL, 
	error JSON, 
	cached INTEGER DEFAULT 0 NOT NULL, 
	dropped JSON NOT NULL, 
	PRIMARY KEY (task_id)
);
CREATE INDEX tasks_pending ON tasks (holder_id, comfy_id) WHERE pending = 1;
CREATE INDEX tasks_by_holder ON tasks (holder_id, created_at);
