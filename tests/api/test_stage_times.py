"""`bench/stage_times.py` tells the processor time of each stage, and leaves the clock as it was."""

import re
import time

import stage_times
from api.fakes import FakeEncoder, use_fake_encoder, write_folder
from difal import timing


class SlowEncoder(FakeEncoder):
    """Sleeps, which takes no processor time."""

    def maps(self, images, noise):
        time.sleep(0.1)
        return super().maps(images, noise)


def test_processor_time_is_told(tmp_path, monkeypatch, capsys):
    use_fake_encoder(SlowEncoder, monkeypatch.setattr)
    data = write_folder(tmp_path / "data", masks=True, test=True, count=3)
    options = "--rounds 2 --budget 1 --candidates 60 --local 12 --random 12 --noise-samples 2 --pictures 0"
    words = ["--data", str(data), "--acquisition", "two-stage-edald", "--out", str(tmp_path / "run"), *options.split()]
    assert stage_times.main(words) == 0
    lines = capsys.readouterr().out.splitlines()
    (encoder,) = (line for line in lines if line.startswith("pool, encoder"))
    assert float(re.search(r": ([\d.]+) s an image", encoder)[1]) < 0.2  # three passes slept 0.3
    for stage in ("pool, local herding", "test, encoder", "global herding", "training", "testing"):
        assert any(line.startswith(f"{stage}: ") for line in lines)
    assert timing.time is time
