import logging

from secateur.events import listening, report, stage


def test_a_listener_gets_stages_and_figures_and_the_log_stays_as_it_was(caplog):
    heard = []
    report("before", loss=1)
    with listening(heard.append):
        stage("pruning blocks")
        report("block %s", 3, loss=2.5)
    report("after", loss=1)
    assert heard == [{"stage": "pruning blocks"}, {"loss": 2.5}]
    assert not caplog.records
    assert logging.getLogger("secateur.events").level == logging.NOTSET


def test_a_log_that_is_on_gets_the_same_records(caplog):
    heard = []
    with caplog.at_level("INFO", logger="secateur"), listening(heard.append):
        report("block %s", 3, loss=2.5)
    assert [record.getMessage() for record in caplog.records] == ["block 3"]
    assert caplog.records[0].facts == heard[0] == {"loss": 2.5}
