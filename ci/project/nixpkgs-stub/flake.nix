# The names of nixpkgs that ../../../flake.nix uses, and no others: evaluating the flake against this
# fails on a misspelt attribute or argument. Called by ci/project/test_flake.py, through
# --override-input, where nixpkgs cannot be fetched. Arguments are those of nixpkgs, as sets without
# `...`. It proves names, arguments and structure; that anything builds it does not prove.
{
  outputs =
    { self }:
    let
      lib = {
        inherit (builtins)
          listToAttrs
          replaceStrings
          ;
        fileset = {
          unions = map (
            path: if builtins.pathExists path then path else throw "${toString path} does not exist"
          );
          toSource = { root, fileset }: builtins.deepSeq fileset root;
        };
        genAttrs =
          names: f:
          builtins.listToAttrs (
            map (name: {
              inherit name;
              value = f name;
            }) names
          );
        getExe = package: "${package}/bin/${package.meta.mainProgram}";
        getExe' = package: name: "${package}/bin/${name}";
        hasSuffix =
          suffix: text:
          let
            rest = builtins.stringLength text - builtins.stringLength suffix;
          in
          rest >= 0 && builtins.substring rest (-1) text == suffix;
        importJSON = path: builtins.fromJSON (builtins.readFile path);
        importTOML = path: builtins.fromTOML (builtins.readFile path);
        licenses.bsd3 = {
          spdxId = "BSD-3-Clause";
        };
        nameValuePair = name: value: { inherit name value; };
        optionalAttrs = condition: set: if condition then set else { };
        optionals = condition: list: if condition then list else [ ];
        removeSuffix =
          suffix: text:
          if lib.hasSuffix suffix text then
            builtins.substring 0 (builtins.stringLength text - builtins.stringLength suffix) text
          else
            text;
      };

      # A derivation that `nix develop` can enter and nothing else can use.
      package =
        system: name: attributes:
        derivation (
          {
            inherit name system;
            builder = "/bin/bash";
            args = [
              "-c"
              ": > $out"
            ];
            outputs = [ "out" ];
            stdenv = ./stdenv;
          }
          // builtins.removeAttrs attributes [
            "env"
            "meta"
          ]
          // attributes.env or { }
        )
        // {
          meta = {
            mainProgram = name;
          }
          // attributes.meta or { };
        };

      # The overlay may extend the packages of every interpreter, and nothing else.
      packages =
        system: pythonPackagesExtensions:
        let
          self = packages system pythonPackagesExtensions;
          make = package system;
          named = name: make name { };
          isLinux = builtins.match ".*-linux" system != null;
          python =
            version:
            let
              extended = builtins.foldl' (
                previous: extension: previous // extension extended previous
              ) own pythonPackagesExtensions;
              own = builtins.mapAttrs (name: _: named name) {
                aiohttp = null;
                httptools = null;
                httpx = null;
                pytest = null;
                pytest-timeout = null;
                starlette = null;
                trustme = null;
                uvicorn = null;
                uvloop = null;
              }
              // {
                buildPythonPackage =
                  {
                    pname,
                    version,
                    src,
                    pyproject,
                    cargoDeps,
                    env,
                    nativeBuildInputs,
                    pythonImportsCheck,
                    meta,
                  }:
                  make "python3-${pname}-${version}" {
                    inherit
                      src
                      cargoDeps
                      env
                      nativeBuildInputs
                      ;
                    inherit meta;
                    outputs = [
                      "out"
                      "dist"
                    ];
                  };
              };
            in
            named "python${version}"
            // {
              pkgs = extended;
              withPackages = select: make "python${version}-env" { packages = select extended; };
            };
        in
        {
          auditwheel = named "auditwheel";
          cargo = named "cargo";
          cargo-nextest = named "cargo-nextest";
          clippy = named "clippy";
          linkFarm = name: entries: make name { paths = map (entry: "${entry.name} ${entry.path}") entries; };
          maturin = named "maturin";
          mkShell =
            { packages, env }:
            make "nix-shell" {
              inherit env;
              nativeBuildInputs = packages;
            };
          nixfmt = named "nixfmt";
          nixfmt-tree = named "treefmt";
          python3Packages.nox = named "nox";
          python311 = python "3.11";
          python312 = python "3.12";
          python313 = python "3.13";
          python314 = python "3.14";
          python314FreeThreading = python "3.14t";
          python315 = python "3.15";
          python315FreeThreading = python "3.15t";
          inherit pythonPackagesExtensions;
          extend =
            overlay:
            let
              extended = packages system (overlay extended self).pythonPackagesExtensions;
            in
            extended;
          ruff = named "ruff";
          runCommand =
            name:
            { nativeBuildInputs }:
            buildCommand: make name { inherit nativeBuildInputs buildCommand; };
          rustPlatform = {
            buildRustPackage =
              {
                pname,
                version,
                src,
                cargoLock,
                cargoBuildFlags,
                doCheck,
                meta,
              }:
              make "${pname}-${version}" {
                inherit src cargoBuildFlags;
                inherit meta;
                inherit (cargoLock) lockFile;
              };
            cargoSetupHook = named "cargo-setup-hook";
            importCargoLock = { lockFile }: make "cargo-vendor-dir" { inherit lockFile; };
            maturinBuildHook = named "maturin-build-hook";
          };
          rustc = named "rustc";
          rustfmt = named "rustfmt";
          stdenv = {
            hostPlatform = {
              inherit isLinux;
              parsed.cpu.name = builtins.head (builtins.split "-" system);
            };
            mkDerivation =
              {
                pname,
                version,
                src,
                cargoDeps,
                nativeBuildInputs,
                buildPhase,
                installPhase ? "",
                checkPhase ? "",
                doCheck ? false,
                env ? { },
                dontConfigure ? false,
                dontInstall ? false,
                dontFixup ? false,
                meta ? { },
              }:
              make "${pname}-${version}" {
                inherit src cargoDeps env;
                inherit nativeBuildInputs;
                inherit buildPhase checkPhase installPhase;
                inherit meta;
              };
          };
          uv = named "uv";
          writeShellApplication =
            {
              name,
              runtimeInputs,
              text,
            }:
            make name { inherit runtimeInputs text; };
          wrk = named "wrk";
          zig = named "zig";
        }
        // lib.optionalAttrs isLinux {
          strace = named "strace";
          valgrind = named "valgrind";
        };
    in
    {
      inherit lib;
      legacyPackages = lib.genAttrs [ "x86_64-linux" "aarch64-linux" "aarch64-darwin" ] (
        system: packages system [ ]
      );
    };
}
