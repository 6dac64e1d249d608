"""How good are the answers, and how sure is that?"""
