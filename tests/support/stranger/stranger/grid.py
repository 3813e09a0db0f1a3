"""Grid: a batch system of another package."""

from kakurenbo_hpc.cluster.schedulers.commands import last_job_id
from kakurenbo_hpc.cluster.schedulers.scheduler import JobState, Queue, Scheduler


class Grid(Scheduler):
    """A batch system with the commands gridsub, gridstat and griddel."""

    title = "Grid"

    def submit_command(self, dependency):
        return ["gridsub", *(["--after", dependency] if dependency else []), "script.sh"]

    def parse_job_id(self, output):
        return last_job_id(output, r"(\d+)")

    def job_state(self, job_id):
        return JobState("running", "as always")

    def find_queue(self, name):
        return Queue(name or "all", None)

    def cancel_command(self, job_id):
        return ["griddel", job_id]


class Careless(Grid):
    """Breaks a law: a path of the run stands in the script unquoted, and nothing is queued again."""

    @property
    def template(self):
        return super().template.replace("{{ run | quoted }}", '"{{ run }}"')


class Forgetful(Grid):
    """Breaks a law: a run that leaves early is not queued again."""

    @property
    def template(self):
        return super().template.replace("gridsub", ":")
