"""The selections of this package in the shape that other libraries expect: one module per library.

    from difal.adapters.scikit_activeml import MaxHerdingQuery, UHerdingQuery
    from difal.adapters.modal import maxherding_sampling, uherding_sampling
    from difal.adapters.baal import MaxHerding, EDALD
    from difal.adapters.small_text import MaxHerdingStrategy, UHerdingStrategy
    from difal.adapters.deep_al import MaxHerding, ProbCover, UHerding
    from difal.adapters.two_stage import local_herding, GlobalHerding
    from difal.adapters.facility_location import FacilityLocationSelection
    from difal.adapters.anomalib import KCenterGreedy

Nothing is imported until one of these is; a library that is absent raises an ImportError that says what to install.
"""
