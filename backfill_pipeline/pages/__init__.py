"""Pages: HTML files for people that load nothing, whoever makes them.

Belongs here: the looks, and the parts that pages are put together from; everything that came from outside is made
harmless on its way in.
Does not: what a page says.
"""
