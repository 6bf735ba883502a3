"""Other ways to label tracks with the same model and the same front end, each a script.

    python -m benchmarks.throughput.peers.loop --tracks-list=FILE --model=FOLDER --output=rows.json

They use nothing of this project.
"""
