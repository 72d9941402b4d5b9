-- The tables as version 2 of the store made them in a SQLite file.
PRAGMA journal_mode=WAL;
CREATE TABLE meta (
	id INTEGER NOT NULL, 
	rev BIGINT NOT NULL, 
	schema_version INTEGER NOT NULL, 
	store_id TEXT NOT NULL, 
	PRIMARY KEY (id)
);
CREATE TABLE nodes (
	node_id TEXT NOT NULL, 
	host TEXT NOT NULL, 
	pid INTEGER NOT NULL, 
	ttl_s FLOAT NOT NULL, 
	renewals BIGINT NOT NULL, 
	gone INTEGER DEFAULT 0 NOT NULL, 
	PRIMARY KEY (node_id)
);
CREATE TABLE locks (
	lock_id TEXT NOT NULL, 
	holder_id TEXT NOT NULL, 
	node_id TEXT NOT NULL, 
	name TEXT NOT NULL, 
	mode TEXT NOT NULL, 
	state TEXT NOT NULL, 
	ticket BIGINT NOT NULL, 
	fence BIGINT, 
	comfy_id TEXT, 
	url TEXT, 
	was TEXT, 
	granted_at FLOAT, 
	requested_at FLOAT NOT NULL, 
	ended_at FLOAT, 
	ended_by TEXT, 
	forced_by TEXT DEFAULT '' NOT NULL, 
	why TEXT DEFAULT '' NOT NULL, 
	confirmed INTEGER DEFAULT 0 NOT NULL, 
	rev BIGINT NOT NULL, 
	PRIMARY KEY (lock_id)
);
CREATE UNIQUE INDEX one_lock_per_holder ON locks (holder_id) WHERE state = 'held';
CREATE INDEX locks_by_node ON locks (node_id, rev);
CREATE UNIQUE INDEX one_wait_per_holder ON locks (holder_id) WHERE state = 'waiting';
CREATE UNIQUE INDEX fences ON locks (fence);
CREATE INDEX locks_by_comfy ON locks (comfy_id) WHERE state = 'held' OR state = 'draining';
CREATE INDEX locks_by_url ON locks (url) WHERE state = 'held' OR state = 'draining';
CREATE INDEX locks_held_by_node ON locks (node_id, fence) WHERE state = 'held';
CREATE INDEX locks_last_used ON locks (comfy_id, fence);
CREATE INDEX locks_by_holder ON locks (holder_id);
CREATE TABLE comfy_servers (
	comfy_id TEXT NOT NULL, 
	access TEXT NOT NULL, 
	"by" TEXT NOT NULL, 
	why TEXT NOT NULL, 
	since FLOAT NOT NULL, 
	PRIMARY KEY (comfy_id)
);
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
	adopted INTEGER DEFAULT 0 NOT NULL, 
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
CREATE INDEX tasks_by_holder ON tasks (holder_id, created_at);
CREATE INDEX tasks_pending_by_node ON tasks (node_id) WHERE pending = 1;
CREATE INDEX tasks_by_age ON tasks (created_at);
CREATE INDEX tasks_pending ON tasks (holder_id, comfy_id) WHERE pending = 1;
CREATE TABLE wants (
	lock_id TEXT NOT NULL, 
	comfy_id TEXT NOT NULL, 
	number INTEGER NOT NULL, 
	capacity INTEGER NOT NULL, 
	url TEXT NOT NULL, 
	PRIMARY KEY (lock_id, comfy_id), 
	FOREIGN KEY(lock_id) REFERENCES locks (lock_id) ON DELETE CASCADE
);
CREATE INDEX wants_by_comfy ON wants (comfy_id);
