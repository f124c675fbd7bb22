# How users of Nix meet TokioLoop: `nix run` is the demo, `nix flake check` the tests, `nix develop` a
# shell for nox. Interpreters come from ci/matrix.json, Rust crates with their hashes from Cargo.lock.
# The one input is nixpkgs, so that the lock can be checked where nothing can be fetched;
# ci/project/test_flake.py evaluates every output there, against a stub of nixpkgs that has just the
# names that are used here.
{
  description = "TokioLoop: a drop-in asyncio event loop on tokio, in Rust";

  inputs.nixpkgs.url = "github:NixOS/nixpkgs/nixos-unstable";

  outputs =
    { self, nixpkgs }:
    let
      inherit (nixpkgs) lib;
      systems = [
        "x86_64-linux"
        "aarch64-linux"
        "aarch64-darwin"
      ];
      eachSystem = f: lib.genAttrs systems (system: f nixpkgs.legacyPackages.${system});

      # "3.14t" is python314FreeThreading in nixpkgs, and 314t in the names of outputs and wheels.
      matrix = lib.importJSON ./ci/matrix.json;
      # nixpkgs builds, and caches, the packages of the benchmarks for few versions; 3.14 is one.
      preferred = "3.14";
      isFreeThreaded = lib.hasSuffix "t";
      short = lib.replaceStrings [ "." ] [ "" ];
      interpreter =
        pkgs: tag:
        if isFreeThreaded tag then
          pkgs."python${short (lib.removeSuffix "t" tag)}FreeThreading"
        else
          pkgs."python${short tag}";
      eachInterpreter =
        prefix: f: lib.listToAttrs (map (tag: lib.nameValuePair (prefix + short tag) (f tag)) matrix);

      inherit ((lib.importTOML ./Cargo.toml).workspace.package) version;
      files =
        paths:
        lib.fileset.toSource {
          root = ./.;
          fileset = lib.fileset.unions paths;
        };
      sources = [
        ./Cargo.lock
        ./Cargo.toml
        ./LICENSE
        ./README.md
        ./benches/loadgen
        ./build.rs
        ./clippy.toml
        ./crates
        ./pyproject.toml
        ./rloop
        ./rustfmt.toml
        ./src
        ./tokioloop.data
      ];
      crates = pkgs: pkgs.rustPlatform.importCargoLock { lockFile = ./Cargo.lock; };
      meta = {
        description = "A drop-in asyncio event loop on tokio, in Rust";
        homepage = "https://github.com/tokioloop/rloop";
        license = lib.licenses.bsd3;
      };

      # Frame pointers, as in ci/build.py. cargoSetupHook has rustflags of its own, for which cargo
      # ignores those of pyproject.toml.
      framePointers = {
        CFLAGS = "-fno-omit-frame-pointer -mno-omit-leaf-frame-pointer";
        RUSTFLAGS = "-Cforce-frame-pointers=yes";
      };

      # `packages` are those of one interpreter, python3.pkgs for instance.
      module =
        pkgs: packages:
        packages.buildPythonPackage {
          pname = "tokioloop";
          inherit version meta;
          src = files sources;
          pyproject = true;
          cargoDeps = crates pkgs;
          env = framePointers;
          nativeBuildInputs = [
            pkgs.rustPlatform.cargoSetupHook
            pkgs.rustPlatform.maturinBuildHook
          ];
          pythonImportsCheck = [ "rloop" ];
        };

      moduleFor = pkgs: tag: module pkgs (interpreter pkgs tag).pkgs;

      # As nox's wheels, but with the maturin, zig and rustc of nixpkgs. zig links against the symbols
      # of an old C library, wherever the wheel runs, where stdenv would link against that of the store.
      manylinux =
        pkgs: tag:
        pkgs.stdenv.mkDerivation {
          pname = "rloop-manylinux-cp${short tag}";
          inherit version meta;
          src = files (sources ++ [ ./ci/unwinder.py ]);
          cargoDeps = crates pkgs;
          env = framePointers;
          nativeBuildInputs = [
            pkgs.auditwheel
            pkgs.cargo
            pkgs.maturin
            pkgs.rustPlatform.cargoSetupHook
            pkgs.rustc
            pkgs.zig
            (interpreter pkgs tag)
          ];
          dontConfigure = true;
          buildPhase = ''
            export HOME=$TMPDIR ZIG_GLOBAL_CACHE_DIR=$TMPDIR/zig
            export RUSTFLAGS="$RUSTFLAGS --remap-path-prefix=$NIX_BUILD_TOP=/build"
            python${tag} ci/unwinder.py target/unwinder \
              zig cc -target ${pkgs.stdenv.hostPlatform.parsed.cpu.name}-linux-gnu.2.17
            maturin build --release --offline --zig --compatibility manylinux2014 \
              --interpreter python${tag} --out $out -- -C link-arg=target/unwinder/libgcc_s.so.1
          '';
          doCheck = true;
          checkPhase = "auditwheel show $out/*.whl | tee /dev/stderr | grep -q manylinux_2_17";
          dontInstall = true;
          dontFixup = true;
        };

      loadGenerator =
        pkgs:
        pkgs.rustPlatform.buildRustPackage {
          pname = "loadgen";
          inherit version meta;
          src = files sources;
          cargoLock.lockFile = ./Cargo.lock;
          cargoBuildFlags = [ "--package=loadgen" ];
          doCheck = false;
        };

      # A program of benches/ with the interpreter, the other loops and the load generator it needs.
      benchmark =
        pkgs: script: packages:
        let
          environment = (interpreter pkgs preferred).withPackages (
            others: [ (moduleFor pkgs preferred) ] ++ packages others
          );
          folder = files [
            ./benches
            ./ci/requirements
          ];
        in
        {
          type = "app";
          meta.description = "benches/${script} on CPython ${preferred}";
          program = lib.getExe (
            pkgs.writeShellApplication {
              name = "rloop-${lib.removeSuffix ".py" script}";
              runtimeInputs = lib.optionals pkgs.stdenv.hostPlatform.isLinux [
                pkgs.strace
                pkgs.valgrind
              ];
              text = ''
                export RLOOP_BENCHES_PROGRAMS=${loadGenerator pkgs}/bin
                export RLOOP_BENCHES_OUTPUT="''${RLOOP_BENCHES_OUTPUT:-$PWD/rloop-benches}"
                exec ${environment}/bin/python ${folder}/benches/${script} "$@"
              '';
            }
          );
        };

      tested =
        pkgs: tag:
        let
          environment = (interpreter pkgs tag).withPackages (others: [
            (moduleFor pkgs tag)
            others.pytest
            others.pytest-timeout
            others.trustme
          ]);
          folder = files [
            ./pyproject.toml
            ./tests
          ];
          gil = if isFreeThreaded tag then "False" else "True";
        in
        pkgs.runCommand "rloop-tests-cp${short tag}" { nativeBuildInputs = [ environment ]; } ''
          export HOME=$TMPDIR
          python -c 'import rloop, sys
          assert getattr(sys, "_is_gil_enabled", lambda: True)() is ${gil}'
          python -m pytest -p no:cacheprovider --config-file=${folder}/pyproject.toml \
            --rootdir=${folder} --ignore=${folder}/tests/frameworks ${folder}/tests
          touch $out
        '';

      lint =
        pkgs:
        pkgs.stdenv.mkDerivation {
          pname = "rloop-lint";
          inherit version;
          src = self;
          cargoDeps = crates pkgs;
          nativeBuildInputs = [
            pkgs.cargo
            pkgs.clippy
            pkgs.ruff
            pkgs.rustPlatform.cargoSetupHook
            pkgs.rustc
            (interpreter pkgs preferred)
          ];
          buildPhase = ''
            ruff check --no-cache
            cargo clippy --offline --workspace --all-targets -- --deny=warnings
          '';
          installPhase = "touch $out";
        };

      formatting =
        pkgs:
        pkgs.runCommand "rloop-formatting"
          {
            nativeBuildInputs = [
              pkgs.cargo
              pkgs.nixfmt
              pkgs.ruff
              pkgs.rustfmt
            ];
          }
          ''
            cd ${self}
            ruff format --check --no-cache
            cargo fmt --all --check
            nixfmt --check flake.nix ci/project/nixpkgs-stub/flake.nix
            touch $out
          '';

      # Only the versioned names: a free-threaded interpreter also answers to python3.14. And links,
      # because a Python package in a shell puts what it depends on into PYTHONPATH.
      programs =
        pkgs: tags:
        pkgs.linkFarm "rloop-programs" (
          map (tag: {
            name = "bin/python${tag}";
            path = lib.getExe' (interpreter pkgs tag) "python${tag}";
          }) tags
          ++ [
            {
              name = "bin/nox";
              path = lib.getExe' pkgs.python3Packages.nox "nox";
            }
          ]
        );

      shell =
        pkgs: tags:
        pkgs.mkShell {
          packages = [
            (programs pkgs tags)
            pkgs.cargo
            pkgs.cargo-nextest
            pkgs.clippy
            pkgs.ruff
            pkgs.rustc
            pkgs.rustfmt
            pkgs.uv
            pkgs.wrk
          ];
          env = {
            # Interpreters are those of this shell, never a download.
            NOX_DOWNLOAD_PYTHON = "never";
            UV_PYTHON_DOWNLOADS = "never";
            UV_PYTHON_PREFERENCE = "only-system";
          };
        };
    in
    {
      # Gives every interpreter's packages an `rloop`: python3.withPackages (p: [ p.rloop ]).
      overlays.default = final: previous: {
        pythonPackagesExtensions = previous.pythonPackagesExtensions ++ [
          (packages: _: { rloop = module final packages; })
        ];
      };

      # python314t is the interpreter with TokioLoop in it, rloop-python314t the package alone.
      packages = eachSystem (
        pkgs:
        eachInterpreter "python" (
          tag: (interpreter pkgs tag).withPackages (_: [ (moduleFor pkgs tag) ])
        )
        // eachInterpreter "rloop-python" (moduleFor pkgs)
        // eachInterpreter "wheel-cp" (tag: (moduleFor pkgs tag).dist)
        // lib.optionalAttrs pkgs.stdenv.hostPlatform.isLinux (
          eachInterpreter "manylinux-cp" (manylinux pkgs)
        )
        // {
          default = moduleFor pkgs preferred;
        }
      );

      apps = eachSystem (pkgs: rec {
        default = demo;
        demo = benchmark pkgs "demo.py" (others: [
          others.aiohttp
          others.httpx
          others.uvicorn
          others.uvloop
        ]);
        bench = benchmark pkgs "run.py" (others: [
          others.aiohttp
          others.httptools
          others.starlette
          others.uvicorn
          others.uvloop
        ]);
      });

      checks = eachSystem (
        pkgs:
        eachInterpreter "tests-cp" (tested pkgs)
        // {
          formatting = formatting pkgs;
          lint = lint pkgs;
        }
      );

      devShells = eachSystem (
        pkgs:
        eachInterpreter "python" (tag: shell pkgs [ tag ])
        // {
          default = shell pkgs matrix;
        }
      );

      formatter = eachSystem (pkgs: pkgs.nixfmt-tree);
    };
}
