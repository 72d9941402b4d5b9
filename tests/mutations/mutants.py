"""The planted faults. Each is one or two lines that somebody could well have written."""

from tests.mutations.gate import Mutant

LOCK, LINE = "tests/domain/test_lock.py", "tests/domain/test_line.py"
LOCKS, NODES = "tests/store/test_lock_store.py", "tests/store/test_node_store.py"
TASKS, CLOSED = "tests/store/test_task_store.py", "tests/store/test_maintenance.py"
TWICE, MEETING = "tests/store/test_twice.py", "tests/store/test_interleavings.py"


def of(file: str, *names: str) -> tuple[str, ...]:
    return tuple(f"{file}::test_{name}" for name in names)


DOMAIN = (
    Mutant(
        name="a lock is held again after it was let go of",
        file="domain/lock.py",
        old="        **dict.fromkeys(LETTING_GO, LockState.DRAINING),\n"
        "        LockEvent.REPLACED: LockState.ENDED,\n        LockEvent.DRAINED",
        new="        **dict.fromkeys(LETTING_GO, LockState.DRAINING),\n"
        "        LockEvent.GRANTED: LockState.HELD,\n"
        "        LockEvent.REPLACED: LockState.ENDED,\n        LockEvent.DRAINED",
        tests=[LOCK],
    ),
    Mutant(
        name="a lock that is let go of does not drain",
        file="domain/lock.py",
        old="    LockState.HELD: {\n        **dict.fromkeys(LETTING_GO, LockState.DRAINING),",
        new="    LockState.HELD: {\n        **dict.fromkeys(LETTING_GO, LockState.ENDED),",
        tests=[LOCK],
    ),
    Mutant(
        name="capacity off by one",
        file="domain/lock.py",
        old="if len({each.holder_id for each in others}) >= capacity:",
        new="if len({each.holder_id for each in others}) > capacity:",
        tests=of(LOCK, "a_shared_lock_fits_beside_shared_ones_up_to_the_capacity"),
    ),
    Mutant(
        name="an exclusive lock beside shared ones",
        file="domain/lock.py",
        old="    if mode is Mode.EXCLUSIVE and others:",
        new="    if mode is Mode.EXCLUSIVE and len(others) > 1:",
        tests=of(LOCK, "an_exclusive_lock_fits_beside_nobody"),
    ),
    Mutant(
        name="room is counted without what drains",
        file="domain/lock.py",
        old="    others = tuple(each for each in locks if each.holder_id != mine)",
        new="    others = tuple(\n        each for each in locks if each.holder_id != mine "
        "and each.state is LockState.HELD\n    )",
        tests=of(LOCK, "a_shared_lock_that_drains_takes_up_its_place"),
    ),
    Mutant(
        name="a shared waiter overtakes an exclusive one",
        file="domain/line.py",
        old="        first = line(comfy_id, waiters, locks)[0]\n",
        new="        standing = line(comfy_id, waiters, locks)\n"
        "        first = next((x for x in standing if fits(x, comfy_id, locks)), standing[0])\n",
        tests=of(
            LINE,
            "a_shared_waiter_does_not_overtake_an_exclusive_one_though_there_is_a_place",
        ),
    ),
    Mutant(
        name="last come, first served",
        file="domain/line.py",
        old="key=lambda each: (not _has(each, comfy_id, locks), each.ticket),",
        new="key=lambda each: (not _has(each, comfy_id, locks), -each.ticket),",
        tests=of(LINE, "who_came_first_is_next"),
    ),
    Mutant(
        name="an upgrade lets others slip in",
        file="domain/line.py",
        old="key=lambda each: (not _has(each, comfy_id, locks), each.ticket),",
        new="key=lambda each: each.ticket,",
        tests=of(LINE, "an_upgrade_waits_for_the_others_who_share_and_lets_nobody_in_meanwhile"),
    ),
    Mutant(
        name="right of way for who has let go",
        file="domain/line.py",
        old="        each.holder_id == waiter.holder_id and each.state is LockState.HELD\n",
        new="        each.holder_id == waiter.holder_id\n",
        tests=of(LINE, "who_has_let_go_of_it_has_no_right_of_way"),
    ),
    Mutant(
        name="a closed ComfyServer is granted",
        file="domain/line.py",
        old="        if comfy_id in closed:\n            continue\n",
        new="",
        tests=of(LINE, "what_is_closed_is_given_to_nobody_and_holds_up_nobody"),
    ),
    Mutant(
        name="a closed ComfyServer holds up all others",
        file="domain/line.py",
        old="        if better not in closed and first and fits(waiter, better, locks):",
        new="        if first and fits(waiter, better, locks):",
        tests=of(LINE, "what_is_closed_is_given_to_nobody_and_holds_up_nobody"),
    ),
    Mutant(
        name="any of several, and not the one that is liked best",
        file="domain/line.py",
        old="        if better == comfy_id:\n            return True\n",
        new="        return True\n",
        tests=of(
            LINE, "who_waits_for_any_of_several_gets_the_one_it_likes_best_of_those_that_are_free"
        ),
    ),
    Mutant(
        name="nobody is ever stuck",
        file="domain/line.py",
        old="    return waiter.holder_id not in moving\n",
        new="    return False\n",
        tests=of(LINE, "two_who_share_and_both_want_it_alone_wait_for_ever"),
    ),
    Mutant(
        name="stuck looks one step far only",
        file="domain/line.py",
        old="        grown = bool(found)\n",
        new="        grown = False\n",
        tests=of(
            LINE,
            "if_nobody_was_let_into_a_line_that_never_ends_all_get_their_turn",
            "who_is_said_to_wait_for_ever_does",
            "three_in_a_ring_wait_for_ever",
        ),
    ),
    Mutant(
        name="stuck looks at locks and not at the line",
        file="domain/line.py",
        old="        return all(other.holder_id in moving for other in before) and fits(",
        new="        return fits(",
        tests=of(LINE, "a_ring_that_goes_through_a_place_in_line_is_one_too"),
    ),
    Mutant(
        name="what drains is waited for like what is held",
        file="domain/line.py",
        old="            if lock.state is LockState.HELD\n            and lock.holder_id in",
        new="            if lock.holder_id in",
        tests=of(LINE, "what_drains_leaves_by_itself_also_when_its_holder_waits"),
    ),
    Mutant(
        name="one ComfyServer by two ids",
        file="domain/request.py",
        old="        if known.get(lock.comfy_id) == url:",
        new="        if known.get(lock.comfy_id, url) == url:",
        tests=of(LOCKS, "one_comfy_server_by_two_ids_is_locked_once"),
    ),
    Mutant(
        name="loopback is the same place on every machine",
        file="domain/request.py",
        old=" and _is_loopback(url) and not one_machine:",
        new=" and _is_loopback(url) and one_machine:",
        tests=of("tests/domain/test_request.py", "loopback_of_another_machine_is_another_place"),
    ),
    Mutant(
        name="one that drains is to be had alone by who has it",
        file="domain/request.py",
        old="or (own and mode is Mode.SHARED):",
        new="or own:",
        tests=of(CLOSED, "one_that_drains_may_be_shared_by_who_has_it_and_not_be_had_alone"),
    ),
)

ASKING = (
    Mutant(
        name="barging",
        file="store/locks.py",
        old="            if first and fits(waiter, comfy.comfy_id, scene.locks):",
        new="            if fits(waiter, comfy.comfy_id, scene.locks):",
        tests=of(LOCKS, "r6_who_does_not_wait_does_not_overtake_though_there_is_a_place"),
    ),
    Mutant(
        name="the line is not looked at",
        file="store/locks.py",
        old="        if flags.has_line or flags.is_decided:",
        new="        if flags.is_decided:",
        tests=of(LOCKS, "r6_who_does_not_wait_does_not_overtake_though_there_is_a_place"),
    ),
    Mutant(
        name="what an operator decided is not looked at",
        file="store/locks.py",
        old="        if flags.has_line or flags.is_decided:",
        new="        if flags.has_line:",
        tests=of(CLOSED, "one_that_drains_gives_no_new_locks_and_those_that_are_held_go_on"),
    ),
    Mutant(
        name="a lock that rests on no lease",
        file="store/locks.py",
        old="        if not flags.has_node:",
        new="        if not flags.has_node and request.node_id == '':",
        tests=of(LOCKS, "nothing_is_granted_on_a_lease_that_is_over"),
    ),
    Mutant(
        name="the lock that another node keeps is handed out",
        file="store/locks.py",
        old="            and held.node_id == request.node_id\n",
        new="",
        tests=of(LOCKS, "a_holder_that_comes_back_on_another_node_gets_a_lock_of_that_node"),
    ),
    Mutant(
        name="a request is not known again",
        file="store/locks.py",
        old="            if isinstance(known, Grant | Waiting):\n                return known\n",
        new="            if isinstance(known, Grant):\n                return known\n",
        tests=of(LOCKS, "the_same_request_again_is_the_same_lock_and_stands_where_it_stood"),
    ),
    Mutant(
        name="a request that was taken back is granted",
        file="store/locks.py",
        old='            raise LockRefused(None, "this very request was taken back before", ())\n',
        new="            request = replace(request, lock_id=LockId(request.lock_id + '+'))\n",
        tests=of(LOCKS, "a_request_that_was_taken_back_leads_to_nothing_any_more"),
    ),
    Mutant(
        name="anybody's request is answered",
        file="store/locks.py",
        old="            if own.request.holder_id != request.holder_id:",
        new="            if own.request.holder_id == '':",
        tests=of(LOCKS, "a_request_of_another_holder_is_not_answered_with_its_lock"),
    ),
    Mutant(
        name="a holder that is refused loses its place",
        file="store/locks.py",
        old="        if not wait:\n            raise refused(",
        new="        if not wait:\n            c.commit()\n            raise refused(",
        tests=of(LOCKS, "r6_a_newer_wish_that_is_refused_leaves_the_older_in_its_place"),
    ),
    Mutant(
        name="a ring is let into the line",
        file="store/locks.py",
        old="        if stuck(waiter, everybody.waiters, everybody.locks):",
        new="        if stuck(waiter, (), everybody.locks):",
        tests=of(LOCKS, "r6_who_would_wait_for_ever_is_not_let_into_the_line"),
    ),
    Mutant(
        name="what R3 forbids is taken for another pool's",
        file="store/locks.py",
        old="        refuse_other_pools(active, request.wants, one_machine=one_machine)\n",
        new="        refuse_other_pools(active, wanted, one_machine=one_machine)\n",
        tests=of(LOCKS, "r3_what_a_holder_cannot_have_now_is_not_taken_for_another_pools"),
    ),
    Mutant(
        name="wandering: R3 is not looked at when asking",
        file="store/locks.py",
        old="        wanted = [each for each in servers if homes <= {each.comfy_id}]",
        new="        wanted = list(servers)",
        tests=of(LOCKS, "r3_a_holder_with_pending_tasks_cannot_move_and_is_told_which"),
    ),
    Mutant(
        name="wandering: R3 is not looked at when its turn comes",
        file="store/moves.py",
        old="        if any(where != comfy_id for _, where in self.pending(c, waiter.holder_id)):",
        new="        if not waiter.wants:",
        tests=of(LOCKS, "r3_who_has_sent_something_while_it_waited_is_refused_at_its_turn"),
    ),
    Mutant(
        name="a downgrade tells nobody",
        file="store/locks.py",
        old="        if any(each.mode is Mode.EXCLUSIVE for each in mine):\n",
        new="        if was is None:\n",
        tests=of(LOCKS, "r6_a_downgrade_lets_others_in"),
    ),
    Mutant(
        name="an exclusive lock that drained and is replaced tells nobody",
        file="store/locks.py",
        old="        if any(each.mode is Mode.EXCLUSIVE for each in mine):\n",
        new="        if was is Mode.EXCLUSIVE:\n",
        tests=of(LOCKS, "r6_coming_back_to_a_node_that_had_it_exclusively_lets_others_in"),
    ),
    Mutant(
        name="a moved holder's node need not confirm",
        file="store/moves.py",
        old="                self.let_go(c, lock, ending, confirmed=False)",
        new="                self.let_go(c, lock, ending, confirmed=True)",
        tests=of(LOCKS, "r6_what_a_holder_has_moved_away_from_is_free_when_its_node_confirms"),
    ),
    Mutant(
        name="what another node may still use is forgotten",
        file="store/moves.py",
        old="            if lock.comfy_id == comfy_id and lock.node_id == node_id:",
        new="            if lock.comfy_id == comfy_id:",
        tests=of(LOCKS, "r6_what_another_node_may_still_use_is_not_free_by_coming_back_to_it"),
    ),
    Mutant(
        name="the mode before is forgotten by those who waited",
        file="store/moves.py",
        old="                was=own.mode_on(comfy_id),\n",
        new="",
        tests=of(LOCKS, "what_a_holder_had_before_is_known_also_when_its_turn_came_later"),
    ),
)

FENCES = (
    Mutant(
        name="the ticket is the fence",
        file="store/moves.py",
        old="                fence=fence,\n",
        new="                fence=waiter.ticket,\n",
        tests=of(LOCKS, "r7_a_fence_is_that_of_the_grant_and_not_of_the_request"),
    ),
    Mutant(
        name="one fence for all who come in together",
        file="store/moves.py",
        old="        fence = self._db.bump(c)\n",
        new="        fence = self._db.rev(c)\n",
        tests=of(LOCKS, "r7_those_who_come_in_together_have_fences_of_their_own"),
    ),
    Mutant(
        name="a revision is the wall clock",
        file="store/database.py",
        old=".values(rev=case((meta.c.rev >= wall_us, meta.c.rev + 1), else_=wall_us))",
        new=".values(rev=wall_us)",
        tests=of(LOCKS, "r7_fences_rise_whatever_the_clock_does"),
    ),
    Mutant(
        name="a revision is a counter",
        file="store/database.py",
        old=".values(rev=case((meta.c.rev >= wall_us, meta.c.rev + 1), else_=wall_us))",
        new=".values(rev=meta.c.rev + 1)",
        tests=of(LOCKS, "r7_an_older_copy_of_the_store_gives_no_fence_twice"),
    ),
)

LETTING_GO = (
    Mutant(
        name="another holder's lock is one's own",
        file="store/moves.py",
        old="    mine = [row for row in rows if row.holder_id == holder_id]",
        new="    mine = list(rows)",
        tests=of(LOCKS, "a_release_touches_nobody_elses"),
    ),
    Mutant(
        name="another holder's lock ends with mine",
        file="store/moves.py",
        old="            locks.c.holder_id == holder_id,\n"
        "            locks.c.comfy_id == comfy_id,\n            IS_DRAINING,\n",
        new="            locks.c.comfy_id == comfy_id,\n            IS_DRAINING,\n",
        tests=of(LOCKS, "r6_what_one_has_drained_is_free_though_another_has_prompts_there"),
    ),
    Mutant(
        name="whoever knows a request takes back the lock that its holder has now",
        file="store/locks.py",
        old="        if row is not None and row.state == LockState.WAITING:\n",
        new="        if row is not None and row.state == LockState.ENDED:\n"
        "            return self._moves.own(c, row.holder_id).held\n"
        "        if row is not None and row.state == LockState.WAITING:\n",
        tests=of(LOCKS, "a_request_that_is_taken_back_late_takes_no_newer_lock_away"),
    ),
    Mutant(
        name="nobody is let in after a release",
        file="store/locks.py",
        old="        if drained and flags.has_line:\n",
        new="        if drained and not flags.has_line:\n",
        tests=of(LOCKS, "r6_first_come_first_served"),
    ),
    Mutant(
        name="nobody is let in after a wait was taken back",
        file="store/locks.py",
        old="self._changed(c, self._moves.leave_line(c, lock_id, ending))",
        new="self._moves.leave_line(c, lock_id, ending)",
        tests=of(LOCKS, "r6_who_goes_away_holds_up_nobody"),
    ),
    Mutant(
        name="nobody is let in after a newer wish",
        file="store/locks.py",
        old="            self._changed(c, self._moves.leave_line(c, own.in_line, ending))\n"
        "            flags",
        new="            self._moves.leave_line(c, own.in_line, ending)\n            flags",
        tests=of(LOCKS, "r6_a_newer_wish_that_is_had_at_once_ends_the_wait_for_the_older"),
    ),
    Mutant(
        name="a grant lets in one only",
        file="store/moves.py",
        old="            changed |= self._grant_waiter(c, *found)\n",
        new="            self._grant_waiter(c, *found)\n            return told\n",
        tests=of(LOCKS, "r6_all_shared_waiters_that_have_room_come_in_at_once"),
    ),
    Mutant(
        name="what a grant frees elsewhere is not looked at",
        file="store/moves.py",
        old="        return set(waiter.wants)\n",
        new="        return {comfy_id}\n",
        tests=of(LOCKS, "r6_a_way_out_of_one_line_frees_those_behind_in_the_other"),
    ),
    Mutant(
        name="the end of a holder leaves it in line",
        file="store/locks.py",
        old="        if own.in_line is not None and only is None:\n"
        "            self._changed("
        "c, self._moves.leave_line(c, own.in_line, ending), tell=True)",
        new="        if own.in_line is None:\n            self._changed(c, set(), tell=True)",
        tests=of(LOCKS, "the_end_of_a_holder_ends_its_wait_and_what_it_has"),
    ),
    Mutant(
        name="a forced lock needs no confirmation",
        file="store/locks.py",
        old="            sure = held.node_id == node_id if confirmed is None else confirmed\n",
        new="            sure = confirmed is None or confirmed\n",
        tests=of(LOCKS, "r6_a_forced_lock_of_another_node_waits_until_that_one_confirms"),
    ),
    Mutant(
        name="drained too early: pending tasks are not looked at",
        file="store/moves.py",
        old="            has_tasks is False or not self._has_prompts",
        new="            has_tasks is not None or not self._has_prompts",
        tests=of(LOCKS, "r6_the_next_one_gets_it_exactly_when_the_last_prompt_has_ended"),
    ),
    Mutant(
        name="drained too early: the confirmation is not looked at",
        file="store/moves.py",
        old="        drained = confirmed and (\n",
        new="        drained = (\n",
        tests=of(LOCKS, "r6_a_forced_lock_of_another_node_waits_until_that_one_confirms"),
    ),
    Mutant(
        name="drained too early: with the first task that ends",
        file="store/moves.py",
        old="        if not found or self._has_prompts(c, holder_id, comfy_id):",
        new="        if not found:",
        tests=of(LOCKS, "r6_the_next_one_gets_it_exactly_when_the_last_prompt_has_ended"),
    ),
    Mutant(
        name="drained too early: a task's end is a confirmation",
        file="store/moves.py",
        old="            locks.c.confirmed == 1,\n",
        new="",
        tests=of(LOCKS, "r6_a_forced_lock_waits_for_both_its_prompts_and_its_node"),
    ),
    Mutant(
        name="prompts of others keep it from draining",
        file="store/moves.py",
        old="                    tasks.c.holder_id == holder_id,\n"
        "                    tasks.c.comfy_id == comfy_id,\n                    IS_PENDING,\n"
        "                )\n                .limit(1)",
        new="                    tasks.c.comfy_id == comfy_id,\n                    IS_PENDING,\n"
        "                )\n                .limit(1)",
        tests=[f"{LOCKS}::test_r6_what_one_has_drained_is_free_though_another_has_prompts_there"],
    ),
    Mutant(
        name="it drains for ever",
        file="store/tasks.py",
        old="                if LockState.DRAINING in c.scalars(states).all():",
        new="                if LockState.WAITING in c.scalars(states).all():",
        tests=of(LOCKS, "r6_the_next_one_gets_it_exactly_when_the_last_prompt_has_ended"),
    ),
    Mutant(
        name="nobody is let in when a lock has drained",
        file="store/tasks.py",
        old="            if drained and self._moves.grant_all(c, [task.comfy_id]):",
        new="            if drained:",
        tests=of(LOCKS, "r6_the_next_one_gets_it_exactly_when_the_last_prompt_has_ended"),
    ),
    Mutant(
        name="nobody is let in when a node has confirmed",
        file="store/locks.py",
        old="            self._changed(c, freed)\n",
        new="            self._changed(c, set())\n",
        tests=of(LOCKS, "r6_a_forced_lock_of_another_node_waits_until_that_one_confirms"),
    ),
    Mutant(
        name="a release whose answer was lost has released nothing",
        file="store/locks.py",
        old="        before = work(c) or before\n",
        new="        before = work(c)\n",
        tests=of(TWICE, "releasing_returns_the_lock_that_it_ended_and_lets_in_one_waiter"),
    ),
)

NODES_ = (
    Mutant(
        name="a renewal that resurrects",
        file="store/nodes.py",
        old="            if renewed.rowcount == 0:\n                raise LeaseLost\n",
        new="            if renewed.rowcount == 0:\n"
        "                c.execute(insert(nodes), {'node_id': node_id, 'host': '', 'pid': 0,"
        " 'ttl_s': 1.0, 'renewals': 0})\n",
        tests=of(NODES, "a_node_that_others_have_ended_cannot_renew"),
    ),
    Mutant(
        name="a renewal of one that has left",
        file="store/nodes.py",
        old="                .where(nodes.c.node_id == node_id, nodes.c.gone == 0)\n"
        "                .values(renewals",
        new="                .where(nodes.c.node_id == node_id)\n                .values(renewals",
        tests=of(NODES, "a_node_that_has_left_cannot_renew"),
    ),
    Mutant(
        name="a renewal that renews nothing",
        file="store/nodes.py",
        old=".values(renewals=nodes.c.renewals + 1)",
        new=".values(renewals=nodes.c.renewals)",
        tests=of(NODES, "each_renewal_begins_a_new_lease_for_those_who_look"),
    ),
    Mutant(
        name="a renewal returns what drains",
        file="store/nodes.py",
        old="select(locks.c.lock_id).where(locks.c.node_id == node_id, IS_HELD)",
        new="select(locks.c.lock_id).where(locks.c.node_id == node_id, IS_ACTIVE)",
        tests=of(NODES, "a_renewal_returns_what_is_still_held"),
    ),
    Mutant(
        name="expiry by the lease of who looks",
        file="store/nodes.py",
        old="            silent = now_s - since_s >= row.ttl_s\n",
        new="            silent = now_s - since_s >= self._ttl_s\n",
        tests=of(NODES, "the_lease_of_the_dead_node_counts_and_not_that_of_who_looks"),
    ),
    Mutant(
        name="expiry without the compare of renewals",
        file="store/nodes.py",
        old="(nodes.c.node_id == each, nodes.c.renewals == renewals)",
        new="(nodes.c.node_id == each, nodes.c.renewals >= 0)",
        tests=of(NODES, "a_renewal_between_the_look_and_the_end_saves_the_node"),
    ),
    Mutant(
        name="expiry that sees no renewals",
        file="store/nodes.py",
        old="            if renewals != row.renewals:\n",
        new="            if renewals is None:\n",
        tests=of(NODES, "each_renewal_begins_a_new_lease_for_those_who_look"),
    ),
    Mutant(
        name="expiry at first sight",
        file="store/nodes.py",
        old="seen.get(row.node_id, (None, now_s))\n            if renewals != row.renewals:",
        new="seen.get(row.node_id, (None, 0.0))\n"
        "            if renewals is not None and renewals != row.renewals:",
        tests=of(
            NODES,
            "a_node_is_ended_when_its_renewals_stood_still_for_its_lease_and_not_earlier",
        ),
    ),
    Mutant(
        name="expiry by the wall clock",
        file="store/nodes.py",
        old="        now_s = self._clock.monotonic_s()\n        known",
        new="        now_s = self._clock.wall_s()\n        known",
        tests=of(NODES, "no_step_of_the_wall_clock_ends_or_saves_a_lease"),
    ),
    Mutant(
        name="expiry that keeps the locks",
        file="store/nodes.py",
        old="        theirs = (locks.c.node_id == dead, IS_ACTIVE)\n",
        new="        theirs = (locks.c.node_id == node_id, locks.c.node_id == dead)\n",
        tests=of(
            NODES,
            "a_node_is_ended_when_its_renewals_stood_still_for_its_lease_and_not_earlier",
        ),
    ),
    Mutant(
        name="expiry that keeps what already drains",
        file="store/nodes.py",
        old="        theirs = (locks.c.node_id == dead, IS_ACTIVE)\n",
        new="        theirs = (locks.c.node_id == dead, IS_HELD)\n",
        tests=of(LOCKS, "r6_a_forced_lock_is_free_when_the_node_that_should_confirm_has_ended"),
    ),
    Mutant(
        name="expiry that keeps the tasks",
        file="store/nodes.py",
        old="update(tasks).where(*orphaned).values(node_id=node_id, adopted=1)",
        new="update(tasks).where(*orphaned).values(node_id=node_id)",
        tests=of(NODES, "adopted_tasks_are_told_of_until_they_have_ended"),
    ),
    Mutant(
        name="expiry that keeps the places in line",
        file="store/nodes.py",
        old="            changed |= self._moves.leave_line(c, LockId(lock_id), ending)\n",
        new="            changed |= {lock_id}\n",
        tests=of(NODES, "r6_who_waited_on_a_dead_node_leaves_the_line"),
    ),
    Mutant(
        name="nobody is let in after an expiry",
        file="store/nodes.py",
        old="            self._moves.grant_all(c, changed)\n",
        new="",
        tests=of(NODES, "r6_the_next_gets_the_idle_server_of_a_dead_node_at_once"),
    ),
    Mutant(
        name="expiry lets in another one that is dead",
        file="store/nodes.py",
        old="                changed.add(lock.comfy_id)\n",
        new="                changed.add(lock.comfy_id)\n"
        "        self._moves.grant_all(c, changed)\n",
        tests=of(NODES, "r6_what_one_dead_node_leaves_is_not_for_another"),
    ),
    Mutant(
        name="expiry by one that is dead itself",
        file="store/nodes.py",
        old="        if dead and self._db.bump(c) and is_known(c, node_id):",
        new="        if dead and self._db.bump(c):",
        tests=of(NODES, "a_node_that_was_ended_itself_ends_nobody"),
    ),
    Mutant(
        name="a node that left is waited for",
        file="store/nodes.py",
        old="            if row.gone or silent or",
        new="            if silent or",
        tests=of(NODES, "what_a_node_leaves_is_taken_over_at_once"),
    ),
    Mutant(
        name="a process id means the same on every machine",
        file="store/machine.py",
        old="        return host == self.host and not _runs(pid)",
        new="        return not _runs(pid)",
        tests=of(NODES, "a_process_of_this_machine_is_seen_to_run_and_to_have_ended"),
    ),
)

TASKS_ = (
    Mutant(
        name="register without looking at the lock",
        file="store/tasks.py",
        old="            if held is None:\n",
        new="            if held is None and task.lock.fence < 0:\n",
        tests=of(TASKS, "r2_no_task_is_recorded_without_the_lock_it_names"),
    ),
    Mutant(
        name="register under a lock that was let go of",
        file="store/tasks.py",
        old="                    locks.c.holder_id == task.holder_id,\n"
        "                    IS_HELD,\n",
        new="                    locks.c.holder_id == task.holder_id,\n",
        tests=of(TASKS, "r2_no_task_is_recorded_under_a_lock_that_was_let_go_of"),
    ),
    Mutant(
        name="register under another holder's lock",
        file="store/tasks.py",
        old="                    locks.c.fence == task.lock.fence,\n"
        "                    locks.c.holder_id == task.holder_id,\n",
        new="                    locks.c.fence == task.lock.fence,\n",
        tests=of(TASKS, "r2_no_task_is_recorded_under_another_holders_lock"),
    ),
    Mutant(
        name="register under any lock of the holder",
        file="store/tasks.py",
        old="                    locks.c.fence == task.lock.fence,\n"
        "                    locks.c.holder_id == task.holder_id,\n",
        new="                    locks.c.holder_id == task.holder_id,\n",
        tests=of(TASKS, "r2_a_lock_that_was_taken_anew_is_not_the_lock_that_a_task_names"),
    ),
    Mutant(
        name="an end that is saved twice",
        file="store/tasks.py",
        old="            .where(tasks.c.task_id == task.task_id, IS_PENDING)\n",
        new="            .where(tasks.c.task_id == task.task_id)\n",
        tests=of(TASKS, "r9_nothing_changes_a_task_that_has_ended"),
    ),
    Mutant(
        name="an end whose answer was lost was somebody else's",
        file="store/tasks.py",
        old="        return row is not None and task_of(row) == task\n",
        new="        return False\n",
        tests=of(TWICE, "whoever_has_ended_a_task_is_told_so"),
    ),
    Mutant(
        name="what was decided is not undone by opening",
        file="store/maintenance.py",
        old="            c.execute(delete(comfy_servers).where("
        "comfy_servers.c.comfy_id == comfy_id))\n",
        new="            if decided.access is not Access.OPEN:\n"
        "                c.execute(delete(comfy_servers).where("
        "comfy_servers.c.comfy_id == comfy_id))\n",
        tests=of(CLOSED, "one_that_is_opened_again_is_to_be_had"),
    ),
    Mutant(
        name="a closed ComfyServer keeps its line",
        file="store/maintenance.py",
        old="            if decided.access is not Access.OPEN:\n",
        new="            if decided.access is Access.OPEN:\n",
        tests=of(CLOSED, "who_waits_for_one_that_is_closed_stands_in_its_line_no_longer"),
    ),
    Mutant(
        name="a ring that closing makes is left",
        file="store/maintenance.py",
        old="            if stuck(waiter, scene.waiters, scene.locks):\n",
        new="            if not scene.waiters:\n",
        tests=of(CLOSED, "a_ring_that_closing_one_makes_is_broken"),
    ),
)

#: What only PostgreSQL lets happen.
MEETING_ = (
    Mutant(
        name="a task is recorded while its lock is let go of",
        file="store/tasks.py",
        old="                .with_for_update(read=True)\n",
        new="",
        tests=[f"{MEETING}"],
        postgres=True,
    ),
    Mutant(
        name="the lock is looked at before the end is written",
        file="store/moves.py",
        old="                .limit(1)\n                .with_for_update(read=True)\n",
        new="                .limit(1)\n",
        tests=[f"{MEETING}"],
        postgres=True,
    ),
    Mutant(
        name="R3 is looked at before nobody can record a task",
        file="store/locks.py",
        old="            self._stay_at_home(c, request, [comfy])\n",
        new="",
        tests=[f"{MEETING}"],
        postgres=True,
    ),
    Mutant(
        name="what lets go does not wait for who records a task",
        file="store/moves.py",
        old="    )\n    .with_for_update()\n)\n\n\ndef _among",
        new="    )\n)\n\n\ndef _among",
        tests=[f"{MEETING}"],
        postgres=True,
    ),
)

STALE, DRAINING = "tests/server/test_fences.py", "tests/server/test_draining.py"
LOOKS, WAITING = "tests/server/test_between_two_looks.py", "tests/server/test_waiting.py"

SERVER = (
    Mutant(
        name="what was granted is trusted past the deadline of the lease",
        file="server/held.py",
        old="        return self._lease.fresh and lock.node_id",
        new="        return lock.node_id",
        tests=of(STALE, "nothing_goes_out_when_the_lease_may_be_over"),
        conftest=True,
    ),
    Mutant(
        name="a new lease keeps what rested on the one before",
        file="server/held.py",
        old="self._lease.fresh and lock.node_id == self._lease.node_id",
        new="self._lease.fresh",
        tests=of(STALE, "nothing_goes_out_when_the_lease_was_lost"),
        conftest=True,
    ),
    Mutant(
        name="a prompt is sent without a look at the lock after it was recorded",
        file="server/submit.py",
        old="            self._locks.check(holder_id, name)\n            body",
        new="            body",
        tests=of(STALE, "a_prompt_that_is_recorded_under_a_lock_that_is_then_lost_is_not_sent"),
        conftest=True,
    ),
    Mutant(
        name="a prompt is sent again without a look at the lock",
        file="server/submit.py",
        old="            self._locks.check(live.task.holder_id, live.task.name)\n",
        new="",
        tests=of(STALE, "a_prompt_that_was_cut_off_is_not_sent_again_when_the_lock_is_lost"),
        conftest=True,
    ),
    Mutant(
        name="what is taken away is not confirmed by its node",
        file="server/keeper.py",
        old="        return lock.state is LockState.DRAINING\n",
        new="        return False\n",
        tests=of(LOOKS, "what_is_forced_elsewhere_is_confirmed_here_and_its_prompts_are_taken_off"),
        conftest=True,
    ),
    Mutant(
        name="exclusive is ready with leftovers of others in the queue",
        file="server/acquire.py",
        old="        if lock.mode is not Mode.EXCLUSIVE:\n            return 0",
        new="        if lock.fence:\n            return 0",
        tests=of(DRAINING, "who_has_it_alone_is_told_when_the_leftovers_of_others_are_gone"),
        conftest=True,
    ),
    Mutant(
        name="prompts of strangers are cancelled as leftovers",
        file="server/ready.py",
        old='if tag.get("store_id") == store_id}',
        new="}",
        tests=of(DRAINING, "who_has_it_alone_is_told_when_the_leftovers_of_others_are_gone"),
        conftest=True,
    ),
    Mutant(
        name="who closes the connection stays in line",
        file="server/acquire.py",
        old="            if stands or not refused:",
        new="            if stands and refused:",
        tests=of(WAITING, "who_closes_the_connection_has_left_the_line"),
        conftest=True,
    ),
)

MUTANTS = (*SERVER, *DOMAIN, *ASKING, *FENCES, *LETTING_GO, *NODES_, *TASKS_, *MEETING_)
