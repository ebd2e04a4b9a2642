"""A browser as the device that is measured: a small server hands it the export, and it posts times and pictures back.

    work.py      what the browser is given to do          records.py   what it may post
    session.py   what it did, kept on the disk             received.py  its pictures, where an audit asks for them
    guard.py     who may speak to the server               server.py    the server; address.py says where it is
    plan.py      the UNet cut for a browser                rows.py      the device's rows of a report
    run.py       all of it, from the address to the report
"""
