"""`callboard task ID --follow`: a task whose own `run` is gone, followed to its end."""

from __future__ import annotations

from callboard.cli.approving import Mode, check_mode, decider
from callboard.cli.connection import opened
from callboard.cli.running import asynchronous
from callboard.cli.terminal import is_terminal, note


@asynchronous
async def follow_task(identity: str, approve: Mode, as_json: bool) -> int:
    """Show its result once it has ended. Callboard is joined, or started for the length of the command."""
    from actors.domain import DomainSpec
    from callboard.cli.following import follow_to_end, show_end
    from callboard.runtime import running_cluster
    from storage.domains import find_domain, wake_domain
    from storage.inspect import match_task

    async with opened() as at:
        task = await match_task(at.db, identity, tenant=at.tenant)
        if task.finished_at is not None:
            return await show_end(at.db, task, as_json=as_json)
        spec = DomainSpec.from_json((await find_domain(at.db, task.domain)).spec)
        check_mode(approve, spec)
        settings = at.settings
    async with running_cluster(settings, only=task.domain, progress=note) as cluster:
        await wake_domain(cluster.postgres, task.domain)
        await cluster.ready(task.domain, progress=note)
        if approve is Mode.POLICY:
            await cluster.load_domain(task.domain)
        return await follow_to_end(
            cluster,
            task.domain,
            task.id,
            decider(approve, spec, cluster, task.ref),
            live=is_terminal() and not as_json,
            as_json=as_json,
        )
